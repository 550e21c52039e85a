"""Measure what a horizon costs with the default sizes: bytes per stream and CPU per tick, with and without a mixture.

One channel of half-hours with the seasons of a day and a week, ticks one by one. Times are CPU time of one thread: a
step of NumPy, as serving's graph computes it, and an update, once every step has a label. `--horizons 1,24` chooses.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from bench.report import Row, finish, one_blas_thread, parser

one_blas_thread()

import numpy as np  # noqa: E402  (BLAS reads its thread count when NumPy is first imported)

from model.fold.learner import Learner  # noqa: E402
from model.spec import ModelSpec  # noqa: E402

HORIZONS = "1,24,48,128,512"
HALF_HOUR = 1800.0
TICKS = 40  # measured; the fastest half counts, because others share the machine


def measure(horizon: int, forecaster: str) -> list[Row]:
    """Return the rows of one horizon."""
    learner = Learner(ModelSpec(channels=("v",), horizon=horizon, interval=HALF_HOUR, forecaster=forecaster))
    network, run_in = learner.network, learner.spec.window + horizon
    x = 10 + np.random.default_rng(0).normal(size=(run_in + TICKS, 1)).cumsum(axis=0).astype(np.float32)
    times = np.float64(1.4e9 // HALF_HOUR * HALF_HOUR) + HALF_HOUR * np.arange(len(x), dtype=np.float64)
    state, u, tape = np.zeros((1, network.state_size), np.float32), network.ahead.inputs(times), network.tape(1, 1)
    learned, stepped = [], []
    for i in range(len(x)):
        row, started = slice(i, i + 1), time.process_time()
        learner.ticks(np.zeros(1, np.uint32), np.array([i + 1], np.uint64), times[row], x[row])
        between = time.process_time()
        _, state = network.step(learner.weights, x[row], u[row], state, tape)
        learned.append(between - started)
        stepped.append(time.process_time() - between)
    case = f"horizon {horizon}, {forecaster}"
    covariances = 0 if learner.experts is None else learner.experts.nbytes
    return [
        Row(case, "state of a stream", 4 * network.state_size, "B"),
        Row(case, "context of a stream in the trainer", 4 * learner.contexts.width + 8 * 3, "B"),
        Row(case, "parameters", 4 * network.layout.size, "B"),
        Row(case, "covariances of a model in the trainer", covariances, "B"),
        Row(case, "streams with a context", learner.contexts.limit, ""),
        Row(case, "step", 1e3 * typical(stepped[run_in:]), "ms"),
        Row(case, "update", 1e3 * typical(learned[run_in:]), "ms"),
    ]


def typical(seconds: list[float]) -> float:
    """Return the mean of the fastest half."""
    return float(np.sort(seconds)[: len(seconds) // 2].mean())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows."""
    options = parser(__doc__)
    options.add_argument("--horizons", default=HORIZONS, help="steps ahead, separated by commas")
    arguments = options.parse_args(argv)
    rows = []
    for horizon in map(int, arguments.horizons.split(",")):
        for forecaster in ("network", "mixture"):
            rows += measure(horizon, forecaster)
    return finish(rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
