"""`freshet demo`: stream seven months of New York taxi rides through a real server and report the result.

The server is a child process. Whenever it dies it is restarted on the same data, and the client resumes by itself.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from service.console.progress import progress
from service.console.remote import Remote
from service.programs.backtest.child import ServerChild, free_port
from service.programs.backtest.command import check_outputs, count, finish, service_report
from service.programs.backtest.plan import Plan, make_plan
from service.programs.backtest.report import Report
from service.programs.backtest.scrape import scrape
from service.programs.backtest.through_service import STALENESS, beside, replay

SERIES = resources.files("service.cli") / "data" / "nyc_taxi.csv"
MODEL, STREAM = "taxi", "nyc"


def demo(rows: int | None = None, json: Path | None = None, keep_serving: bool = False) -> int:
    """Run the demo and return the exit code.

    rows: use only the first N rows; json: file for the report, with the keys of a backtest's.
    Raises Invalid, OSError; FreshetError, ServerFailed, Stalled; KeyboardInterrupt after everything has stopped.
    """
    check_outputs(json=json)
    with resources.as_file(SERIES) as file:
        plan = make_plan(file, rows=rows)
    folder = Path(tempfile.mkdtemp(prefix="freshet-demo-"))
    try:
        return asyncio.run(_demo(plan, folder, json, keep_serving))
    finally:
        if not keep_serving:
            shutil.rmtree(folder, ignore_errors=True)


async def _demo(plan: Plan, folder: Path, json: Path | None, keep_serving: bool) -> int:
    # Fixed ports: the client reconnects to the address that it had before a restart.
    listen, http = (f"127.0.0.1:{free_port()}" for _ in range(2))
    async with ServerChild(folder / "data", folder / "server.log", listen=listen, http=http) as server:
        return await beside(_restart(server), _show(plan, server, json, keep_serving))


async def _restart(server: ServerChild) -> NoReturn:
    """Restart the server whenever it ends. Raises ServerFailed if it does not become ready."""
    while True:
        code = await server.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        print(f"the server ended by {how}; starting it again on the same data", file=sys.stderr, flush=True)
        await server.start()


async def _show(plan: Plan, server: ServerChild, json: Path | None, keep_serving: bool) -> int:
    """Stream the series, score the forecasts, and print the report."""
    print(f"freshet serves on {server.grpc}; its metrics are on http://{server.http}/metrics", flush=True)
    print(f"streaming {plan.rows:,} half-hours of New York taxi rides through it\n", flush=True)
    scorer = plan.scorer()
    with progress("streaming", plan.rows) as shown:

        def take(row: int, forecast: npt.NDArray[np.floating[Any]]) -> None:
            count(scorer, None, shown, row, forecast)

        observed = await replay(Remote(server.grpc), MODEL, STREAM, plan, STALENESS, take)
    scraped = await scrape(server.http, MODEL)
    report = await asyncio.to_thread(service_report, plan, [scorer], observed, scraped)
    print()
    code = finish(report, json, STALENESS)
    if observed.reconnects:
        print(f"{'reconnects':<12}{observed.reconnects}, with {observed.lost} answers lost")
    ended = asyncio.Event()
    if keep_serving:  # own handlers, because a shell's background job starts with SIGINT ignored
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
    print("\n" + closing(report, server, keep_serving), flush=True)
    if keep_serving:
        await ended.wait()
    return code


def closing(report: Report, server: ServerChild, keep_serving: bool) -> str:
    """Return the last lines: a summary of the report, and what to try next."""
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
        "",
        "Next:",
        f"  {freshet} backtest YOUR.csv        the same for a series of yours",
        f"  {freshet} serve                    a server for your own streams; --help lists its settings",
    ]
    if keep_serving:
        lines += [
            f"  curl http://{server.http}/metrics",
            "",
            f"Still serving on {server.grpc}, model {MODEL}, stream {STREAM}; data in {server.data}. Ctrl-C ends it",
            "and leaves the data.",
        ]
    else:
        lines += [f"  {freshet} demo --keep-serving      leave this server running and look at its /metrics"]
    return "\n".join(lines)


def _compared(error: float, other: float) -> str:
    """Return how an error compares with another one, such as "73 % below"."""
    if not other:
        return "not comparable with"
    change = error / other - 1
    return f"{abs(change):.0%} {'below' if change < 0 else 'above'}"
