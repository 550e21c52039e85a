"""One training step of a registered cell, and the matrix products of that step alone.

A step is forward, a linear head at every tick, MSE, backward, global-norm clip, Adam on the flat vector, and reading
the loss, by `model`'s own functions. NumPy must be limited to one thread before this module is imported.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from model.answers.head import Head
from model.answers.losses import mse
from model.cells import stacked
from model.parameters import Array, Layout
from model.spec import ModelSpec
from model.update.adaptive import Adam
from model.update.gradients import clip_by_global_norm

CLIP, RATE = 1.0, 1e-3
Step = Callable[[], float]


class Point(NamedTuple):
    """The size of a window: B rows, T ticks, I inputs, H units. The head has I outputs."""

    B: int
    T: int
    I: int  # noqa: E741  (the field's letter)
    H: int


class Stack:
    """Cells of one kind in layers, and a head at every tick, with weights and workspaces for one point."""

    def __init__(self, name: str, point: Point, layers: int) -> None:
        T, B, I, H = point.T, point.B, point.I, point.H  # noqa: E741
        rng = np.random.default_rng(0)
        self.cells = stacked(ModelSpec(channels=("x",), cell=name, layers=layers, hidden=H), I)
        self.head = Head(H, 0, I, 0.1)
        shapes = {f"{i}.{k}": s for i, cell in enumerate(self.cells) for k, s in cell.shapes().items()}
        self.layout = Layout({**shapes, "head.W": self.head.shapes()["W"]})
        self.flat, self.grad = (np.zeros(self.layout.size, np.float32) for _ in range(2))
        self.params, self.dparams = self._views(self.flat), self._views(self.grad)
        for cell, params in zip(self.cells, self.params, strict=False):
            cell.init_params(params, rng)
        self.head.init_params(self.params[-1], rng)
        self.tapes = [cell.workspace(T, B, np.float32) for cell in self.cells]
        self.starts = [np.zeros((B, cell.state_size), np.float32) for cell in self.cells]
        self.X, Y = (rng.standard_normal((T, B, I), np.float32) for _ in range(2))
        self.Y, self.weight, self.none = (
            Y.reshape(T * B, I),
            np.array(2 / Y.size, np.float32),
            np.zeros((T * B, 0), np.float32),
        )

    def _views(self, flat: Array) -> list[dict[str, Array]]:
        """Return the named parameters of each layer, the head last."""
        named = self.layout.views(flat)
        layers = [*(str(i) for i in range(len(self.cells))), "head"]
        return [{k.split(".")[1]: v for k, v in named.items() if k.startswith(f"{layer}.")} for layer in layers]

    def gradient(self) -> float:
        """Overwrite `grad`, and return the mean squared error."""
        (T, B), H = self.X.shape[:2], self.head.hidden
        seen = self.X
        for cell, params, start, tape in zip(self.cells, self.params, self.starts, self.tapes, strict=False):
            seen = cell.forward(params, start, seen, tape)
        Hs = seen.reshape(T * B, H)
        each, dp = mse(self.head.forward(self.params[-1], Hs, self.none), self.Y, self.weight)
        self.grad[...] = 0
        dH = self.head.backward(self.params[-1], Hs, self.none, dp, self.dparams[-1]).reshape(T, B, H)
        for i in range(len(self.cells) - 1, -1, -1):
            dH, _ = self.cells[i].backward(self.params[i], self.tapes[i], dH, self.dparams[i], need_dX=i > 0)
        return float(each.sum())


def numpy_step(name: str, point: Point, layers: int) -> Step:
    """Return a function that trains our cells by one step and returns its loss."""
    stack, optimizer = Stack(name, point, layers), Adam()
    moments = optimizer.init(stack.layout.size)

    def step() -> float:
        loss = stack.gradient()
        clip_by_global_norm(stack.grad, CLIP)
        optimizer.update(stack.flat, stack.grad, moments, RATE)
        return loss

    return step


def products_only(name: str, point: Point, layers: int) -> Step:
    """Return a function that repeats only the matrix products of `numpy_step`: same arrays, same calls.

    The products are those that a gradient makes by `np.dot` and `np.matmul`; one written with @ is not seen.
    """
    stack = Stack(name, point, layers)
    calls = recorded(stack.gradient)

    def step() -> float:
        for product, operands, options in calls:
            product(*operands, **options)
        return 0.0

    return step


def recorded(run: Callable[[], Any]) -> list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]:
    """Run `run`, and return its calls of `np.dot` and `np.matmul`: function, operands and options, in order."""
    calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []

    def noting(product: Callable[..., Any]) -> Callable[..., Any]:
        def multiply(*operands: Any, **options: Any) -> Any:
            calls.append((product, operands, options))
            return product(*operands, **options)

        return multiply

    plain = np.dot, np.matmul
    np.dot, np.matmul = noting(np.dot), noting(np.matmul)  # type: ignore[assignment]
    try:
        run()
    finally:
        np.dot, np.matmul = plain
    return calls


def seconds_per_step(step: Step, block_s: float) -> Callable[[], float]:
    """Return a block of steps that takes about `block_s` seconds; it returns the mean seconds per step.

    Seconds of the processor: other programs then matter less, and a library that used a second thread would pay for it.
    """
    for _ in range(3):
        step()
    begun = time.process_time()
    step()
    count = max(1, int(block_s / (time.process_time() - begun)))

    def block() -> float:
        start = time.process_time()
        for _ in range(count):
            step()
        return (time.process_time() - start) / count

    return block
