"""The demo's last lines: what came of it, and what to try next."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from service.programs.backtest.child import ServerChild
from service.programs.backtest.report import Report

MODEL = "taxi"


def closing(report: Report, server: ServerChild, keep_serving: bool, found: Sequence[str] = ()) -> str:
    """Return the last lines: a summary of the report, and what to try next. found: lines on the change half-way."""
    mse, seasonal = report.freshet.mse, report.best_seasonal()
    others = [("persistence", "persistence"), ("rls", "recursive least squares")]
    others += [(seasonal, f"the best seasonal baseline, {seasonal}")] if seasonal else []
    compared = [f"{_compared(mse, report.errors[name].mse)} {words}" for name, words in others]
    beside = Path(sys.executable).with_name("freshet")  # where it was installed, which may not be on the PATH
    freshet = "freshet" if shutil.which("freshet") else os.path.relpath(beside)
    lines = [
        "Every forecast was made before its value was known, by a model that knew nothing when the stream began.",
        f"Its squared error is {', '.join(compared[:2])}" + ("." if len(compared) == 2 else ","),
        *(f"{each}." for each in compared[2:]),
        f"{report.versions} versions went into service while it ran; latency was measured with the trainer at work.",
        *found,
        "",
        "Next:",
        f"  {freshet} backtest YOUR.csv        the same for a series of yours",
        f"  {freshet} serve                    a server for your own streams; --help lists its settings",
    ]
    if keep_serving:
        lines += [
            f"  http://{server.http}/  the live page",
            f"  curl http://{server.http}/metrics",
            "",
            f"Still serving on {server.grpc}, model {MODEL}; data in {server.data}. Ctrl-C ends it",
            "and leaves the data.",
        ]
    else:
        lines += [
            f"  {freshet} demo --inject-drift      the rides change half-way: see it learn again",
            f"  {freshet} demo --keep-serving      leave this server running, with its live page and its /metrics",
        ]
    return "\n".join(lines)


def _compared(error: float, other: float) -> str:
    """Return how an error compares with another one, such as "73 % below"."""
    if not other:
        return "not comparable with"
    change = error / other - 1
    return f"{abs(change):.0%} {'below' if change < 0 else 'above'}"
