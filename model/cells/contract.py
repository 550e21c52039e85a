"""The contract of a recurrent cell. One file per cell in `cells/`, forward and backward adjacent.

At this boundary arrays are time-major, T × B × features. Inside, layout and gate order belong to the kernel:
feature-major with the batch innermost, so that every gate is a contiguous slab and every step is one matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from model.bounds import Bound
from model.parameters import Array

Params = Mapping[str, Array]


MAX_UNIT = 1.01  # of units between -1 and 1, and what rounding and fast functions add
MAX_MEMORY = 2.0**25  # of a sum of such, where float32 adds no more to it


class Workspace(Protocol):
    """Everything a cell writes while it runs a window of one shape: made once, used for every window (the tape)."""

    T: int
    B: int


class Cell(Protocol):
    """A recurrent layer as functions of their inputs; settings are frozen fields."""

    @property
    def inputs(self) -> int:
        """I: features of one tick."""
        ...

    @property
    def hidden(self) -> int:
        """H: units, and features of the output."""
        ...

    @property
    def state_size(self) -> int:
        """Floats of one stream's state; its first `hidden` are the output of the last step."""
        ...

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """What the parts of the state can hold after any ticks, all sizes together being `state_size`."""
        ...

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each parameter, in the order of the flat vector."""
        ...

    def init_params(self, params: Params, rng: np.random.Generator) -> None:
        """Write first values into the given views."""
        ...

    def workspace(self, T: int, B: int, dtype: type[np.floating[Any]]) -> Workspace:
        """Buffers for windows of T ticks and B rows."""
        ...

    def forward(self, params: Params, state: Array, X: Array, tape: Any) -> Array:
        """Run a window. state [B, state_size] and X [T, B, I] are only read. Returns H [T, B, hidden], a tape view."""
        ...

    def state_after(self, tape: Any, steps: int) -> Array:
        """The state after that many steps of the last forward, 1..T: [B, state_size], a new array."""
        ...

    def backward(self, params: Params, tape: Any, dH: Array, dparams: Params, need_dX: bool) -> tuple[Array, Array]:
        """`forward` read bottom-up. dH: [T, B, hidden], only read; dparams are added to.

        Returns dX [T, B, I] (a view of the tape; meaningless unless need_dX) and dstate [B, state_size].
        """
        ...

    def lag_norms(self, tape: Any) -> Array:
        """[T] float64: L2 norm of the loss gradient by each step's hidden state, as the last backward left it."""
        ...

    def saturated(self, tape: Any) -> float:
        """Fraction of sigmoid gates of the last forward below 0.05 or above 0.95; without gates, of units alike."""
        ...
