"""Measure a training step of our cells against PyTorch eager and against the bare matrix products, one thread each.

One step is forward, MSE through a linear head at every timestep, backward, global-norm clip, Adam, and reading the
loss. All three run in turn in one process, and their medians are compared: absolute times change with the machine,
ratios little. PyTorch is optional (`pip install torch`); without it, its rows are left out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bench.report import Row, alternated, finish, one_blas_thread, parser

one_blas_thread()

import numpy as np  # noqa: E402  (BLAS reads its thread count when NumPy is first imported)

from model.cells import CELLS  # noqa: E402
from model.parameters import Array, Layout  # noqa: E402
from model.spec import ModelSpec  # noqa: E402
from model.update.gradients import clip_by_global_norm  # noqa: E402
from model.update.optimizers import Adam  # noqa: E402


class Point(NamedTuple):
    """The size of a window: B rows, T ticks, I inputs, H units. The head has I outputs."""

    B: int
    T: int
    I: int  # noqa: E741  (the field's letter)
    H: int


# The lowest measured ratio of PyTorch to NumPy for each cell: one layer, one thread, PyTorch 2, an AVX-512 machine.
LOW = {
    Point(1, 16, 8, 32): {"lstm": 5.34, "gru": 11.82, "rnn": 18.83},
    Point(1, 32, 8, 64): {"lstm": 2.51, "gru": 10.83, "rnn": 15.01},
    Point(16, 32, 8, 64): {"lstm": 1.59, "gru": 4.35, "rnn": 5.99},
    Point(32, 64, 8, 128): {"lstm": 0.95, "gru": 1.42, "rnn": 2.36},
    Point(64, 64, 16, 256): {"lstm": 1.16, "gru": 1.20, "rnn": 1.32},
    Point(256, 32, 16, 128): {"lstm": 1.50, "gru": 1.18, "rnn": 1.41},
}
DEFAULT = [Point(1, 16, 8, 32), Point(16, 32, 8, 64)]
TORCH_MARGIN = 0.9  # share of the lowest ratio to reach, because ratios vary by 10 % between runs
GEMM_LIMIT, GEMM_FROM_B = 1.5, 32  # below 32 rows, call overhead decides, and there is no bound
CLIP, RATE = 1.0, 1e-3
Step = Callable[[], float]


def numpy_step(name: str, point: Point) -> Step:
    """Return a function that trains our cell by one step and returns its loss."""
    B, T, I, H = point  # noqa: E741
    cell = CELLS[name](I, H, ModelSpec(channels=("x",), cell=name))
    layout = Layout({**cell.shapes(), "head": (I, H + 1)})
    rng = np.random.default_rng(0)
    flat, grad = (rng.normal(0, 0.1, layout.size).astype(np.float32) for _ in range(2))
    params, dparams = layout.views(flat), layout.views(grad)
    optimizer = Adam()
    moments, tape = optimizer.init(layout.size), cell.workspace(T, B, np.float32)
    X, Y = (rng.standard_normal((T, B, I), np.float32) for _ in range(2))
    start, wanted = np.zeros((B, cell.state_size), np.float32), Y.reshape(T * B, I)
    W, dW = params["head"], dparams["head"]

    def step() -> float:
        Hs = cell.forward(params, start, X, tape).reshape(T * B, H)
        error = np.dot(Hs, W[:, :-1].T)
        error += W[:, -1]
        error -= wanted
        loss = float(np.vdot(error, error) / error.size)
        error *= 2 / error.size
        grad[...] = 0
        dW[:, :-1] = np.dot(error.T, Hs)
        dW[:, -1] = error.sum(axis=0)
        cell.backward(params, tape, np.dot(error, W[:, :-1]).reshape(T, B, H), dparams, need_dX=False)
        clip_by_global_norm(grad, CLIP)
        optimizer.update(flat, grad, moments, RATE)
        return loss

    return step


def pytorch(torch: Any, name: str, point: Point) -> Step:
    """Return the same step as a PyTorch user writes it."""
    B, T, I, H = point  # noqa: E741
    torch.manual_seed(0)
    cell, head = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[name](I, H), torch.nn.Linear(H, I)
    params = [*cell.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(params, lr=RATE)
    X, Y, loss_of = torch.randn(T, B, I), torch.randn(T, B, I), torch.nn.MSELoss()

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of(head(cell(X)[0]), Y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, CLIP)
        optimizer.step()
        return float(loss.item())

    return step


def products_only(name: str, point: Point) -> Step:
    """Return a function that runs only the matrix products of `numpy_step`, with the same shapes and calls."""
    B, T, I, H = point  # noqa: E741
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Array:
        return rng.standard_normal(shape, np.float32)

    K = H + I + 1
    rows = {"lstm": 4 * H, "gru": 3 * H, "rnn": H}[name]
    # (dA rows, X rows) of each weight's gradient; the GRU's candidate has a separate input product.
    weights = {"lstm": [(4 * H, K)], "gru": [(3 * H, H + 1), (3 * H, I)], "rnn": [(H, K)]}[name]
    W, WT, XH, A, dh = draw(rows, K), draw(H, rows), draw(T, K, B), np.empty((rows, B), np.float32), draw(H, B)
    Wn, NX = draw(H, I), np.empty((T, H, B), np.float32)
    grads = [(draw(T, m, B), draw(T, k, B), np.empty((m, k), np.float32)) for m, k in weights]
    Hs, Who, error = draw(T * B, H), draw(I, H), draw(T * B, I)
    dA = grads[0][0]

    def step() -> float:
        if name == "gru":
            np.matmul(Wn, XH[:, -I:], out=NX)
        for xh in XH:
            np.dot(W, xh, out=A)
        np.dot(Hs, Who.T)
        np.dot(error.T, Hs)
        np.dot(error, Who)
        for da in dA[1:]:
            np.dot(WT, da, out=dh)
        for d, x, dW in grads:
            if B == 1:
                np.dot(d[:, :, 0].T, x[:, :, 0], out=dW)
            else:
                for d_t, x_t in zip(d, x, strict=True):
                    np.dot(d_t, x_t.T, out=dW)
        return 0.0

    return step


def seconds_per_step(step: Step, block_s: float) -> Callable[[], float]:
    """Return a block of steps that takes about `block_s` seconds; it returns the mean seconds per step."""
    for _ in range(3):
        step()
    begun = time.perf_counter()
    step()
    count = max(1, int(block_s / (time.perf_counter() - begun)))

    def block() -> float:
        start = time.perf_counter()
        for _ in range(count):
            step()
        return (time.perf_counter() - start) / count

    return block


def measure(name: str, point: Point, torch: Any, repeats: int) -> list[Row]:
    """Return the rows of one cell at one point."""
    case = f"{name} (B,T,I,H)={tuple(point)}".replace(" ", "")
    steps = {"numpy": numpy_step(name, point), "products": products_only(name, point)}
    if torch is not None:
        steps["torch"] = pytorch(torch, name, point)
    for key in set(steps) - {"products"}:
        first = steps[key]()
        if not all(steps[key]() < 1.5 * first for _ in range(20)):
            raise RuntimeError(f"{case}: the loss of the {key} step explodes, so it is not a training step")
    taken = alternated({key: seconds_per_step(step, 0.01) for key, step in steps.items()}, repeats)
    limit = GEMM_LIMIT if point.B >= GEMM_FROM_B else None
    rows = [Row(case, "step / products only", taken["numpy"] / taken["products"], "ratio", limit)]
    if torch is not None:
        asked = TORCH_MARGIN * LOW[point][name]
        rows.append(Row(case, "torch / step", taken["torch"] / taken["numpy"], "ratio", asked, "higher"))
    return rows + [Row(case, f"{key} step", value, "s") for key, value in taken.items()]


def import_torch() -> Any:
    """Return PyTorch limited to one thread, or None if it is not installed."""
    try:
        import torch
    except ImportError:
        print("torch is not installed: its rows are left out (pip install torch==2.13.0)", file=sys.stderr)
        return None
    torch.set_num_threads(1)
    return torch


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows; return 1 if a row misses its bound."""
    options = parser(__doc__)
    options.add_argument("--all", action="store_true", help="all six points instead of two")
    options.add_argument("--cells", nargs="+", default=sorted(CELLS), choices=sorted(CELLS))
    options.add_argument("--repeats", type=int, default=41, help="number of alternated blocks, about 10 ms each")
    arguments = options.parse_args(argv)
    torch = import_torch()
    points = list(LOW) if arguments.all else DEFAULT
    rows = [row for p in points for name in arguments.cells for row in measure(name, p, torch, arguments.repeats)]
    return finish(rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
