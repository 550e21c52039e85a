"""Measure one update in the service, `Learner.ticks` with one tick of each stream, and print where its time goes.

Parts are timed by replacing a function with one that adds its processor time to the part's; time in a part within it
does not count. The timers cost a microsecond a call: compare parts with each other, and totals with the rows "update",
which are measured without timers.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

from bench.report import Row, finish, one_blas_thread, parser

one_blas_thread()

import numpy as np  # noqa: E402  (BLAS reads its thread count when NumPy is first imported)

from model.answers.head import Head  # noqa: E402
from model.fold import experts, learner  # noqa: E402
from model.fold.contexts import Contexts  # noqa: E402
from model.fold.learner import Learner  # noqa: E402
from model.network import Network  # noqa: E402
from model.spec import ModelSpec  # noqa: E402

SPECS: dict[str, dict[str, Any]] = {"mixture": {}, "network": {"forecaster": "network"}}
# (owner, name) of the functions of each part; a part within another counts only for itself.
PARTS: dict[str, Sequence[tuple[Any, str]]] = {
    "contexts: load and store": [(Contexts, "load"), (Contexts, "store")],
    "labels that become due": [(learner, "due_labels")],
    "padding": [(learner, "padded")],
    "cells: forward": [(Network, "forward")],
    "cells: backward": [(Network, "backward")],
    "head": [(Head, "forward"), (Head, "backward")],
    "loss and masks": [(learner, "gradient")],
    "experts: regressors and answers": [(experts.Experts, "look"), (learner, "origins")],
    "experts: least squares and weights": [(experts.Experts, "learn")],
    "scores": [(Learner, "_score"), (Learner, "_detect_drift")],
    "clip, optimizer, check": [(Learner, "_clip"), (Learner, "_step")],
    "report, one in 16": [(learner, "layer_norms"), (learner, "report_of")],
    "scaler of the tick": [(Network, "observe"), (Network, "inputs")],
    "regressors of the tick": [(Network, "extend")],
    "rings": [(learner, "push")],
    "groups": [(learner, "rounds")],
}
WHOLE = "everything else"


class Clock:
    """Processor time by part: only the innermost running part's clock runs."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self._running = [WHOLE]
        self._since = 0

    def switch(self) -> None:
        """Add the time since the last switch to the running part."""
        now = time.process_time_ns()
        self.spent[self._running[-1]] += now - self._since
        self._since = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, timed as `part`."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self.switch()
            self._running.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.switch()
                self._running.pop()

        return run

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time the functions of PARTS."""
        patches = [
            mock.patch.object(owner, name, self.timed(part, getattr(owner, name)))
            for part, functions in PARTS.items()
            for owner, name in functions
        ]
        for patch in patches:
            patch.start()
        self._since = time.process_time_ns()
        try:
            yield
        finally:
            self.switch()
            for patch in patches:
                patch.stop()


def ticking(streams: int, fields: dict[str, Any]) -> Callable[[], None]:
    """Return a function that gives a learner one tick of each stream; every call is one update."""
    made = Learner(ModelSpec(**{"channels": ("v",), "interval": 3600.0, "max_share": 1.0, **fields}))
    rng, ids, n = np.random.default_rng(0), np.arange(streams, dtype=np.uint32), 0

    def tick() -> None:
        nonlocal n
        n += 1
        at = np.full(streams, n, np.uint64)
        made.ticks(ids, at, np.full(streams, 3600.0 * n), rng.standard_normal((streams, 1), np.float32))

    for _ in range(made.spec.window + 200):
        tick()
    if not made.counts.updates or made.counts.refused:
        raise RuntimeError(f"{fields}: the ticks do not teach: {made.counts}")
    return tick


def measure(case: str, tick: Callable[[], None], updates: int) -> list[Row]:
    """Return the seconds of one update, and its parts from the largest to the smallest."""
    plain = []
    for _ in range(10):
        start = time.process_time()
        for _ in range(updates // 10):
            tick()
        plain.append((time.process_time() - start) / (updates // 10))
    clock = Clock()
    with clock.watching():
        for _ in range(updates):
            tick()
    total = sum(clock.spent.values())
    rows = [Row(case, "update", statistics.median(plain), "s")]
    return rows + [Row(case, part, spent / total, "share") for part, spent in clock.spent.most_common()]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows."""
    options = parser(__doc__)
    options.add_argument("--streams", nargs="+", type=int, default=[1, 32])
    options.add_argument("--updates", type=int, default=400)
    arguments = options.parse_args(argv)
    rows = []
    for streams in arguments.streams:
        for name, fields in SPECS.items():
            rows += measure(f"{name}, streams={streams}", ticking(streams, fields), max(10, arguments.updates))
    return finish(rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
