"""Measure a training step of every cell against PyTorch, JAX and its own matrix products, one thread each.

One step is forward, MSE through a linear head at every tick, backward, global-norm clip, Adam, and reading the loss.
All run in turn in one process, and their medians are compared: absolute times change with the machine, ratios little.
A second part compares what a learned tick costs in a learner, by the number of streams; a third, what a tick of a long
window with one label costs, where gradients vanish and numbers could become subnormal. PyTorch and JAX are optional.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench.report import Row, alternated, finish, one_blas_thread, parser

one_blas_thread()

import numpy as np  # noqa: E402  (BLAS reads its thread count when NumPy is first imported)

from bench._steps import Point, Step, numpy_step, products_only, seconds_per_step  # noqa: E402
from bench._twins import TWINS, jax_step, library, torch_step  # noqa: E402
from bench.lags import newest_labelled, spec  # noqa: E402
from model.cells import CELLS  # noqa: E402
from model.fold.learner import Learner  # noqa: E402
from model.network import Network  # noqa: E402
from model.spec import ModelSpec  # noqa: E402

# The lowest measured ratio of PyTorch's time to NumPy's with one and two layers: one thread, an AVX-512 machine.
LOW: dict[Point, dict[str, tuple[float, float]]] = {
    Point(1, 16, 8, 32): {"lstm": (5.34, 4.18), "gru": (11.82, 11.13), "rnn": (18.83, 13.85)},
    Point(1, 32, 8, 64): {"lstm": (2.51, 1.95), "gru": (10.83, 10.68), "rnn": (15.01, 9.80)},
    Point(16, 32, 8, 64): {"lstm": (1.59, 1.33), "gru": (4.35, 4.28), "rnn": (5.99, 4.30)},
    Point(32, 64, 8, 128): {"lstm": (0.95, 0.90), "gru": (1.42, 1.45), "rnn": (2.36, 2.14)},
    Point(64, 64, 16, 256): {"lstm": (1.16, 1.00), "gru": (1.20, 1.27), "rnn": (1.32, 1.37)},
    Point(256, 32, 16, 128): {"lstm": (1.50, 1.20), "gru": (1.18, 1.26), "rnn": (1.41, 1.29)},
}
TORCH_MARGIN = 0.9  # share of the lowest ratio to reach, because ratios vary by 10 % between runs
# Learned ticks that are compared with an lstm of window 16: a spec, and the number of streams from which it is cheaper.
LEARNED: dict[str, tuple[dict[str, Any], int]] = {
    "lru + rtrl": ({"cell": "lru", "rule": "rtrl"}, 1),
    "attention W=64": ({"cell": "attention", "attention_window": 64}, 16),
}
SHORT, LONG, GAINS, LONG_ASKED = 128, 512, (0.5, 1.0, 1.5), 1.15
BLOCK_S = 0.01


def step_rows(name: str, point: Point, layers: int, libraries: dict[str, Any], rounds: int) -> list[Row]:
    """Return the rows of one cell at one point. libraries: modules by name, those that are installed."""
    case = f"{name} {layers} (B,T,I,H)={tuple(point)}".replace(", ", ",")
    steps = {"step": numpy_step(name, point, layers), "products": products_only(name, point, layers)}
    makers = {"torch": torch_step, "jax": jax_step}
    if name in TWINS:
        steps |= {key: makers[key](module, name, point, layers) for key, module in libraries.items()}
    if name != "lstm":
        steps["lstm"] = numpy_step("lstm", point, layers)
    for key in set(steps) - {"products"}:
        first = steps[key]()
        if not all(steps[key]() < 1.5 * first for _ in range(10)):
            raise RuntimeError(f"{case}: the loss of {key} explodes, so it is not a training step")
    taken = alternated({key: seconds_per_step(step, BLOCK_S) for key, step in steps.items()}, rounds)
    asked = TORCH_MARGIN * LOW[point][name][layers - 1] if point in LOW and name in LOW[point] else None
    rows = [Row(case, "step / products only", taken["step"] / taken["products"], "ratio")]
    if "torch" in taken:
        rows.append(Row(case, "torch / step", taken["torch"] / taken["step"], "ratio", asked, "higher"))
    if "jax" in taken:
        rows.append(Row(case, "jax / step", taken["jax"] / taken["step"], "ratio"))
    if "lstm" in taken:
        rows.append(Row(case, "step / lstm's", taken["step"] / taken["lstm"], "ratio"))
    return [*rows, Row(case, "step", taken["step"], "s")]


def learned_tick(fields: dict[str, Any], streams: int, hidden: int) -> Callable[[], float]:
    """Return a function that gives a learner one tick of each stream, all with a label, and returns the seconds."""
    learner = Learner(
        ModelSpec(**{"channels": ("v",), "forecaster": "network", "hidden": hidden, "max_share": 1.0, **fields})
    )
    rng, ids, seq = np.random.default_rng(0), np.arange(streams, dtype=np.uint32), np.zeros(streams, np.uint64)
    time_of, learned = np.full(streams, np.nan), learner.counts

    def tick() -> float:
        nonlocal seq
        seq = seq + np.uint64(1)
        x = rng.standard_normal((streams, 1), np.float32)
        start = time.process_time()
        learner.ticks(ids, seq, time_of, x)
        return time.process_time() - start

    for _ in range(learner.spec.window + 2):
        tick()
    if learned.refused or not learned.updates:
        raise RuntimeError(f"{fields}: nothing is learned: {learned}")
    return tick


def learned_rows(streams: int, hidden: int, rounds: int) -> Iterator[Row]:
    """Yield one row for each of LEARNED that this version has, and say why another is left out."""
    for name, (fields, cheaper_from) in LEARNED.items():
        case = f"{name} B={streams} H={hidden}"
        try:
            blocks = {"it": learned_tick(fields, streams, hidden), "lstm": learned_tick({}, streams, hidden)}
        except (TypeError, ValueError) as error:  # an unknown key, or a cell that the registry does not have
            print(f"{case} is left out: {error}", file=sys.stderr)
            continue
        taken = alternated(blocks, 10 * rounds)
        asked = 1.0 if streams >= cheaper_from else None
        yield Row(case, "learned tick / lstm's, T=16", taken["it"] / taken["lstm"], "ratio", asked)
        yield Row(case, "learned tick", taken["it"] / streams, "s")


def long_rows(name: str, rounds: int) -> Iterator[Row]:
    """Yield for each gain of the first weights what a tick of a long window costs relative to one of a short window."""
    for gain in GAINS:
        try:
            networks = {T: Network(spec(cell=name, init_gain=gain, window=T)) for T in (SHORT, LONG)}
        except ValueError:  # the cell has no gain
            continue
        blocks = {str(T): seconds_per_step(_gradient(network, T), BLOCK_S) for T, network in networks.items()}
        taken = alternated(blocks, rounds)
        ratio = taken[str(LONG)] / LONG / (taken[str(SHORT)] / SHORT)
        yield Row(f"{name} gain={gain:g} B=1 H=64", f"tick of T={LONG} / T={SHORT}", ratio, "ratio", LONG_ASKED)


def _gradient(network: Network, T: int) -> Step:
    norms = newest_labelled(network, T, 1, np.float32)
    return lambda: float(norms()[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows; return 1 if a row misses its bound."""
    options = parser(__doc__)
    points = {f"{p.B},{p.T},{p.I},{p.H}": p for p in LOW}
    options.add_argument("--only", nargs="+", metavar="CELL", default=list(CELLS), choices=list(CELLS))
    options.add_argument("--points", nargs="+", metavar="B,T,I,H", default=list(points), choices=list(points))
    options.add_argument("--layers", nargs="+", type=int, default=[1, 2], choices=[1, 2])
    options.add_argument("--rounds", type=int, default=21, help="number of alternated blocks, about 10 ms each")
    arguments = options.parse_args(argv)
    found = {name: module for name in ("torch", "jax") if (module := library(name)) is not None}
    chosen = [points[name] for name in arguments.points]
    grid = [(p, name, layers) for p in chosen for name in arguments.only for layers in arguments.layers]
    rows = []
    for point, name, layers in grid:
        rows += step_rows(name, point, layers, found, arguments.rounds)
        ratios = ", ".join(
            f"{row.metric} {row.value:.2f}" for row in rows if row.case == rows[-1].case and row.unit == "ratio"
        )
        print(f"{rows[-1].case}: {ratios}", file=sys.stderr)  # the table comes minutes later
    for streams, hidden in dict.fromkeys((p.B, p.H) for p in chosen):
        rows += learned_rows(streams, hidden, arguments.rounds)
    for name in arguments.only:
        rows += long_rows(name, arguments.rounds)
    return finish(rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
