"""Measure how backpropagation through time changes a gradient on its way back, and its cost.

The figure is the norm of the gradient with respect to the hidden state, by ticks before the label, with fresh weights,
random inputs and a label at the newest tick only. It vanishes or explodes with the size of the recurrent weights
(Bengio, Simard & Frasconi 1994), an LSTM keeps more of it, an LRU of radius 1 all of it, and the clip bounds the effect
of an exploding one on the weights (Pascanu et al. 2013). The benchmark prints ratios and draws the picture.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.report import Row, alternated, finish, one_blas_thread, parser

one_blas_thread()

import numpy as np  # noqa: E402  (BLAS reads its thread count when NumPy is first imported)

from model.cells import CELLS  # noqa: E402
from model.fold.learner import Learner  # noqa: E402
from model.network import Network  # noqa: E402
from model.parameters import Array  # noqa: E402
from model.spec import ModelSpec  # noqa: E402
from model.update.bptt import Batch, gradient  # noqa: E402
from service.programs.offline.chart import Line, line_chart  # noqa: E402

LAGS, ROWS, LATE = 64, 8, 32
SMALL, PLAIN, LARGE, KEPT, ENDLESS = "rnn × ½", "rnn", "rnn × 3", "lstm", "lru, radius 1"
# Every registered cell with its defaults, and the options that change how a gradient decays.
CASES: dict[str, dict[str, Any]] = {
    SMALL: {"cell": "rnn", "init_gain": 0.5},
    PLAIN: {"cell": "rnn"},
    LARGE: {"cell": "rnn", "init_gain": 3.0},
    "rnn, relu, identity": {"cell": "rnn", "activation": "relu", "init": "identity"},
    ENDLESS: {"cell": "lru", "init_gain": 1 / 0.9},  # the first radii are at least 0.9, and limited to below 1
    **{name: {"cell": name} for name in CELLS},
}


def spec(**fields: Any) -> ModelSpec:
    """Return the spec of a model of one channel whose head passes a gradient back from the first update."""
    return ModelSpec(
        **{"channels": ("v",), "hidden": 64, "window": LAGS, "head_init": 0.1, "forecaster": "network", **fields}
    )


def newest_labelled(network: Network, T: int, B: int, dtype: Any) -> Callable[[], Array]:
    """Return a function that computes one gradient at the first weights and returns its norms by lag, nearest first."""
    rng = np.random.default_rng(network.spec.seed)
    X, Y = rng.standard_normal((T, B, network.features)), rng.standard_normal((T, B, 1))
    weight = np.zeros_like(Y)
    weight[-1] = 1
    batch = Batch(*(a.astype(dtype) for a in (np.zeros((B, network.hidden_size)), X, Y, weight)))
    weights = network.weights(network.init_params().astype(dtype))
    tape, grad = network.tape(T, B, dtype), network.weights(np.empty_like(weights.flat))

    def norms() -> Array:
        gradient(network, weights, batch, tape, grad)
        return network.cells[-1].lag_norms(tape.cells[-1])[::-1]

    return norms


def by_lag(fields: dict[str, Any], seeds: int) -> Array:
    """Return [LAGS] float64: the norm of dL/dh relative to the newest tick's, median over seeds; it falls to 1e-28."""
    networks = [Network(spec(seed=seed, **fields)) for seed in range(seeds)]
    curves = [newest_labelled(network, LAGS, ROWS, np.float64)() for network in networks]
    return np.asarray(np.median([curve / curve[0] for curve in curves], axis=0))


def clipped_steps(fields: dict[str, Any]) -> tuple[float, float, ModelSpec]:
    """Return the largest gradient norm before the clip and the largest ‖Δw‖ of updates on noise, with plain SGD."""
    learner = Learner(spec(optimizer="sgd", learning_rate=1e-3, **fields))
    norms, steps, one = [], [], np.ones(1)
    for seq, value in enumerate(np.random.default_rng(0).standard_normal(3 * LAGS), 1):
        before = learner.weights.flat.astype(np.float64)
        x = np.full((1, 1), value, np.float32)
        updates = learner.ticks(one.astype(np.uint32), np.full(1, seq, np.uint64), one * np.nan, x)
        norms += [update.norm for update in updates]
        steps.append(float(np.linalg.norm(learner.weights.flat - before)))
    return max(norms), max(steps), learner.spec


def growth(cell: str, sizes: Sequence[tuple[int, int]], repeats: int) -> float:
    """Return p of seconds ∝ size^p for one gradient, fitted over pairs (T, d) in which one number grows."""

    def block(T: int, d: int) -> Callable[[], float]:
        norms = newest_labelled(Network(spec(cell=cell, hidden=d, window=T)), T, 2 * ROWS, np.float32)
        norms()

        def timed() -> float:
            start = time.perf_counter()
            norms()
            return time.perf_counter() - start

        return timed

    taken = alternated({f"{T} {d}": block(T, d) for T, d in sizes}, repeats)
    varied = [T if len({d for _, d in sizes}) == 1 else d for T, d in sizes]
    return float(np.polyfit(np.log(varied), np.log(list(taken.values())), 1)[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark, print the rows and draw the picture; return 1 if a row misses its bound."""
    options = parser(__doc__)
    options.add_argument(
        "--svg", type=Path, metavar="OUT", help="file of the picture; default: beside --json, or ./lags.svg"
    )
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--repeats", type=int, default=21, help="repeats of each timed gradient")
    arguments = options.parse_args(argv)
    curves = {name: by_lag(fields, arguments.seeds) for name, fields in CASES.items()}
    norm, step, learned = clipped_steps(CASES[LARGE])
    late = f"gradient norm, lag {LATE} / lag 0"
    asked: dict[str, tuple[float, Any]] = {SMALL: (1e-6, "lower"), LARGE: (1e2, "higher"), ENDLESS: (0.99, "higher")}
    rows = [
        Row(name, late, float(curve[LATE]), "ratio", *asked.get(name, (None, "lower")))
        for name, curve in curves.items()
    ]
    kept = float(curves[KEPT][LATE] / curves[PLAIN][LATE])
    rows.append(Row(f"{KEPT} over {PLAIN}", late, kept, "ratio", 10.0, "higher"))
    rows.append(Row(LARGE, "largest gradient norm / clip", norm / learned.clip, "ratio", 1e2, "higher"))
    # The bound is above 1, because the step is read back from weights that float32 has rounded.
    rows.append(
        Row(LARGE, "largest step / (rate × clip)", step / (learned.learning_rate * learned.clip), "ratio", 1.01)
    )
    for cell in CELLS:
        in_T = growth(cell, [(T, 128) for T in (32, 64, 128, 256)], arguments.repeats)
        in_d = growth(cell, [(32, d) for d in (128, 192, 256, 384, 512)], arguments.repeats)
        rows.append(Row(cell, "time ∝ T^p: p", in_T, "ratio", 1.15))
        rows.append(Row(cell, "time ∝ d^p: p", in_d, "ratio", 2.15))
    svg = arguments.svg or (arguments.json.with_suffix(".svg") if arguments.json else Path("lags.svg"))
    lines = [Line(name, range(LAGS), curve.tolist()) for name, curve in curves.items()]
    title = f"Share of a label's gradient that reaches earlier ticks (fresh weights, {learned.hidden} units)"
    svg.write_text(
        line_chart(
            title, "ticks before the label (×: factor on the recurrent weights)", "‖dL/dh‖, relative", lines, log_y=True
        )
    )
    print(f"wrote the picture {svg}")
    return finish(rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
