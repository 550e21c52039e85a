"""The contract of a recurrent cell. One file per cell, forward and backward adjacent.

Arguments and results are time-major, T × B × features. Inside, each cell chooses its layout and gate order:
feature-major with the batch innermost, so that every gate is a contiguous slab and every step is one matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from model.bounds import Bound
from model.parameters import Array

Params = Mapping[str, Array]


MAX_UNIT = 1.01  # of units between -1 and 1, plus what rounding and fast functions add
MAX_MEMORY = 2.0**25  # of a sum of such units: here float32 addition of one more changes nothing
# Of a state that sums weighted inputs: an input of 1e15, weights that add up to 69, and 1,449 of them, as an lru sums.
MAX_SUM = 1e20
# Added to what such a state sums. Without input it decays to about this size, and never to a subnormal number; of
# anything larger than 1e-23 it changes no bit.
FLOOR = 2.0**-100


@runtime_checkable
class Workspace(Protocol):
    """The tape: all buffers that a cell writes for a window of one shape. Made once and reused for every window."""

    T: int
    B: int


@runtime_checkable
class Traced(Protocol):
    """A cell whose derivatives of the state by its parameters, the trace, can be kept beside the state.

    Learning rule rtrl (Williams & Zipser 1989) then has the gradient through a stream's whole past without going back
    to it. A cell with a diagonal recurrence needs few traces: each unit's state depends on its own parameters only
    (Mozer 1989; Zucchet et al. 2023, arXiv:2305.15947).
    """

    @property
    def trace_size(self) -> int:
        """Floats of one stream's trace. A zero state that depends on no parameter has a trace of zeros."""
        ...

    def advance_trace(self, tape: Any, trace: Array, steps: int) -> Array:
        """Return the trace after `steps` steps (1..T) of the last forward, [B', trace_size], a new array.

        trace: of the start states, [B', trace_size], of the first B' ≤ B rows; only read.
        """
        ...

    def trace_gradient(self, trace: Array, dstate: Array, dparams: Params) -> None:
        """Add dstate·∂(start state)/∂(parameters), summed over rows, to `dparams`: the gradient by the past.

        trace: [B, trace_size]; dstate: [B, state_size], as `backward` returns it; both are only read.
        """
        ...


@runtime_checkable
class Skipping(Workspace, Protocol):
    """The tape of a cell whose outputs do not depend on each other: those before tick `since` are 0."""

    since: int


class Cell(Protocol):
    """A recurrent layer. Methods are functions of their arguments; settings are frozen fields."""

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
        """Floats of one stream's hidden state."""
        ...

    @property
    def reach(self) -> slice:
        """The part of the state that the output of the last step is, or is a weighted sum of.

        float32 rounds such a sum relative to the largest of these numbers.
        """
        ...

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """Range of each part of the state after any ticks; the sizes add up to `state_size`."""
        ...

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name and shape of each parameter, in the order of the flat vector."""
        ...

    def init_params(self, params: Params, rng: np.random.Generator) -> None:
        """Write initial values into the given views."""
        ...

    def workspace(self, T: int, B: int, dtype: type[np.floating[Any]]) -> Workspace:
        """Return new buffers for windows of T ticks and B rows."""
        ...

    def forward(self, params: Params, state: Array, X: Array, tape: Any) -> Array:
        """Run a window and return the outputs H [T, B, hidden], a view of the tape.

        state: [B, state_size] before the window; X: [T, B, I]; both are only read.
        """
        ...

    def state_after(self, tape: Any, steps: int) -> Array:
        """Return the state after `steps` steps (1..T) of the last forward: [B, state_size], a new array."""
        ...

    def backward(self, params: Params, tape: Any, dH: Array, dparams: Params, need_dX: bool) -> tuple[Array, Array]:
        """Add the last forward's gradient to `dparams`; return dX [T, B, I] and dstate [B, state_size].

        dH: [T, B, hidden], gradient by the outputs, only read. dX is a view of the tape. Without need_dX it is
        undefined, and so may dstate be.
        """
        ...

    def lag_norms(self, tape: Any) -> Array:
        """Return the L2 norm of the loss gradient by each step's hidden state, [T] float64, after a backward."""
        ...

    def saturated(self, tape: Any) -> float:
        """Return the fraction of saturated sigmoid gates in the last forward, outside 0.05..0.95.

        A cell without gates returns the fraction of its units that pass almost no gradient.
        """
        ...

    def saturated_units(self, tape: Any) -> NDArray[np.bool_]:
        """Return which units `saturated` counts, or has a gate of, in the last step of the last forward: [B, H].

        Of attention, whose units share their weights, none.
        """
        ...

    def units(self, state: Array) -> Array:
        """Return one number for each unit of states [B, state_size], to be shown: [B, H]."""
        ...
