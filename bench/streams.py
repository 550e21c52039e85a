"""Measure what a readout of each stream's own brings where different streams share one model.

Every column of the files is a stream of one channel, or with --together every file is one stream of all its columns.
All rows of one time are learned as one group. Forecasts one tick ahead are served from weights of the last version,
one every 1, 16, 128 and 1,024 ticks of a stream. The figure is a stream's mean squared error over that of persistence,
from a quarter of its rows on, mean over the streams; beside it, the mean of all errors over that of persistence, in
z-units of a stream's first fifth.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.report import Row, alternated, finish, one_blas_thread, parser

one_blas_thread()

import numpy as np  # noqa: E402  (BLAS reads its thread count when NumPy is first imported)
import onnxruntime  # noqa: E402

from model.fold.learner import Learner  # noqa: E402
from model.graph.step import export_step  # noqa: E402
from model.network import Network  # noqa: E402
from model.parameters import Array  # noqa: E402
from model.spec import ModelSpec  # noqa: E402
from service.programs.backtest.scoring import z_units  # noqa: E402
from service.programs.backtest.series import read_series  # noqa: E402

STEPS = 2000  # whose median is the cost
STALENESS = (1, 16, 128, 1024)  # ticks of a stream from one version to the next
MODELS: dict[str, dict[str, Any]] = {
    "network": {"forecaster": "network"},
    "mixture": {"forecaster": "mixture"},
    "mixture, own readouts": {"forecaster": "mixture", "own_readout": True},
}


class Stream(NamedTuple):
    """A recorded stream."""

    name: str
    x: Array  # [N, C]
    time: Array  # [N] seconds


def read(files: Sequence[Path], interval: float, together: bool) -> list[Stream]:
    """Return the streams of the files, one row of `interval` seconds each."""
    streams = []
    for path in files:
        series = read_series(path)
        if series.time is None:
            raise SystemExit(f"bench streams: {path} has no times")
        every = max(1, round(interval / series.interval)) if interval else 1
        x, times = series.x[::every], series.time[::every]
        if together:
            streams.append(Stream(path.stem, x, times))
        else:
            streams += [Stream(f"{path.stem} {n}", x[:, i : i + 1], times) for i, n in enumerate(series.names)]
    return streams


def forecasts(spec: ModelSpec, streams: Sequence[Stream]) -> dict[int, list[Array]]:
    """Return by staleness the forecasts [N, C] of each stream, NaN before the first."""
    learner = Learner(spec)
    network, C = learner.network, len(spec.channels)
    made = {stale: [np.full((len(s.x), C), np.nan, np.float32) for s in streams] for stale in STALENESS}
    states = {stale: np.zeros((len(streams), network.state_size), np.float32) for stale in STALENESS}
    served = {stale: network.weights(network.init_params()) for stale in STALENESS}
    for t in range(max(len(s.x) for s in streams)):
        rows = np.array([i for i, s in enumerate(streams) if t < len(s.x)])
        x, times = (np.stack([getattr(streams[i], part)[t] for i in rows]) for part in ("x", "time"))
        learner.ticks(rows.astype(np.uint32), np.full(len(rows), t + 1, np.uint64), times, x)
        for stale in STALENESS:
            if t % stale == 0:
                served[stale].flat[...] = learner.weights.flat
            y, after = network.step(served[stale], x, network.ahead.inputs(times), states[stale][rows])
            states[stale][rows] = after
            for i, forecast in zip(rows, y, strict=True):
                made[stale][i][t] = forecast
    return made


def ratios(streams: Sequence[Stream], made: Sequence[Array]) -> tuple[Array, Array, Array]:
    """Return each stream's squared error over persistence's, and both errors in z-units, all [streams]."""
    errors = []
    for stream, y in zip(streams, made, strict=True):
        first, unit = max(1, len(y) // 4), z_units(stream.x, len(y) // 5)[0]
        truth = stream.x[first:].astype(np.float64)
        errors.append([(((p[first - 1 : -1] - truth) / unit) ** 2).mean() for p in (y, stream.x)])
    ours, theirs = np.array(errors).T
    return ours / theirs, ours, theirs


def stepping(spec: ModelSpec, rows: int) -> Callable[[], float]:
    """Return a function that runs the exported step on `rows` rows and returns the seconds it took."""
    network = Network(spec)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    weights = network.weights(network.init_params())
    session = onnxruntime.InferenceSession(export_step(network, weights), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feed = {
        "x": rng.standard_normal((rows, len(spec.channels)), np.float32),
        "u": network.ahead.inputs(np.full(rows, 1.4e9)),
        "state": np.zeros((rows, network.state_size), np.float32),
    }

    def step() -> float:
        begun = time.perf_counter()
        _, feed["state"], *_ = session.run(None, feed)
        return time.perf_counter() - begun

    return step


def costs(specs: dict[str, ModelSpec]) -> list[Row]:
    """Return the rows of the exported steps' cost, taken in turn, and of the states' size."""
    out = []
    for rows in (1, 64):
        taken = alternated({name: stepping(spec, rows) for name, spec in specs.items()}, STEPS)
        out += [Row(name, f"exported step of {rows} rows", seconds, "s") for name, seconds in taken.items()]
    return out + [Row(name, "state of a stream", 4.0 * Network(spec).state_size, "B") for name, spec in specs.items()]


def measure(spec: ModelSpec, name: str, streams: Sequence[Stream]) -> list[Row]:
    """Return the rows of one model."""
    out = []
    begun = time.process_time()
    for stale, made in forecasts(spec, streams).items():
        ratio, ours, theirs = ratios(streams, made)
        case = f"{name}, version every {stale}"
        out += [
            Row(case, "error / persistence, mean", float(ratio.mean()), "ratio"),
            Row(case, "error / persistence, worst", float(ratio.max()), "ratio"),
            Row(case, "mean error / mean of persistence", float(ours.mean() / theirs.mean()), "ratio"),
            Row(case, "mean error, z-units", float(ours.mean()), ""),
        ]
    return [*out, Row(name, "processor, learning and serving", time.process_time() - begun, "s")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("files", nargs="*", type=Path, metavar="FILE", help="series with times; none: costs only")
    options.add_argument("--interval", type=float, default=0.0, help="seconds per tick; default: the first file's")
    options.add_argument("--together", action="store_true", help="one stream per file, with all columns as channels")
    options.add_argument("--model", choices=MODELS, action="append", help="only this one; repeatable")
    options.add_argument("--seed", type=int, default=0, help="of the weights")
    given = options.parse_args(argv)
    streams = read(given.files, given.interval, given.together)
    channels = tuple(f"c{i}" for i in range(streams[0].x.shape[1])) if streams else ("c0",)
    interval = given.interval or (float(np.median(np.diff(streams[0].time))) if streams else 3600.0)
    shared = {"channels": channels, "interval": interval, "seed": given.seed}
    specs = {name: ModelSpec(**shared, **MODELS[name]) for name in given.model or MODELS}
    rows = [row for name, spec in specs.items() for row in (measure(spec, name, streams) if streams else [])]
    rows += costs(specs)
    return finish(rows, given.json)


if __name__ == "__main__":
    sys.exit(main())
