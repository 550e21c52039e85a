"""A step of one row in two parts: arithmetic with numbers in Python, then onnxruntime for the rest of the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from math import copysign, inf, nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.graph.divided.parts import PLANS, Divided

Array = NDArray[np.float32]


@lru_cache(maxsize=PLANS)
def _compiled(source: str) -> Callable[..., None]:
    """Return the function in a source; all versions of a model have the same.

    It is text of `model.graph.divided` alone: no name of the file is in it, only numbers that it made up or formatted.
    """
    found: dict[str, Any] = {"copysign": copysign, "inf": inf, "nan": nan, "sqrt": sqrt}
    exec(compile(source, "<the numbers of a step>", "exec"), found)
    function: Callable[..., None] = found["numbers"]
    return function


class SingleStep:
    """A divided step, ready to run on one thread at a time. Its buffers are overwritten by each run."""

    def __init__(self, parts: Divided, widths: Mapping[str, int], load: Callable[[bytes], Any]) -> None:
        """widths: columns of x, u, state, y and bounds, if there are any. load: returns the session of a graph."""
        answers = {name: widths[name] for name in ("y", "bounds") if widths.get(name)}
        sizes = {name: widths[name] for name in ("x", "u", "state")} | {"next_state": widths["state"]}
        sizes |= {"given": parts.given, "answer": sum(answers.values()), "r": 1}
        self._buffers = {name: np.zeros((1, size), np.float32) for name, size in sizes.items()}
        self._has_u = widths["u"] > 0
        self._numbers = _compiled(parts.source)
        views = ("x", "u", "state", "given", "next_state", "r")
        self._views = tuple(self._buffers[name].reshape(-1).data for name in views)
        self._session = load(parts.graph)
        self._binding = self._session.io_binding()
        for name, (buffer, start, width) in parts.inputs.items():
            self._binding.bind_input(name, "cpu", 0, np.float32, [1, width], self._address(buffer, start))
        for name, (buffer, start, width) in parts.outputs.items():
            self._binding.bind_output(name, "cpu", 0, np.float32, [1, width], self._address(buffer, start))
        start = 0
        for name, width in answers.items():
            self._binding.bind_output(name, "cpu", 0, np.float32, [1, width], self._address("answer", start))
            start += width
        self._x, self._u, self._state = (self._buffers[name] for name in ("x", "u", "state"))
        self._after = self._buffers["answer"], self._buffers["next_state"]

    def _address(self, buffer: str, column: int) -> int:
        return self._buffers[buffer].ctypes.data + column * self._buffers[buffer].itemsize

    def run(self, x: Array, u: Array, state: Array) -> tuple[Array, Array]:
        """Compute one step of one row, as `StepSession.run` does.

        Raises ZeroDivisionError or ValueError where the arithmetic has no number for an answer.
        """
        self._x[...], self._state[...] = x, state
        if self._has_u:
            self._u[...] = u
        self._numbers(*self._views)
        self._session.run_with_iobinding(self._binding)
        return self._after
