"""A layer above the first: layer normalization of its input (Ba, Kiros & Hinton, arXiv:1607.06450, eq. 4) and a
residual connection around it (He et al., arXiv:1512.03385, eq. 1), in the order of a pre-norm block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bounds import Bound
from model.cells.contract import Cell, Params, Skipping
from model.cells.kernels import EPS
from model.parameters import Array


class Normalized:
    """Buffers of `normalize` for inputs [T, B, I], and what its backward reads."""

    def __init__(self, T: int, B: int, features: int, dtype: type[np.floating[Any]]) -> None:
        self.X = np.empty((T, B, features), dtype)  # (x − mean) / deviation
        self.Y = np.empty((T, B, features), dtype)
        self.deviation = np.empty((T, B, 1), dtype)


def normalize(norm: Array, X: Array, kept: Normalized) -> Array:
    """Return gain·(x − mean)/√(variance + EPS) + bias over the last axis, a view of `kept`.

    norm: [2, I], gain and bias; X: [T, B, I]; both are only read.
    """
    np.subtract(X, X.mean(axis=-1, keepdims=True), out=kept.X)
    variance = np.square(kept.X).mean(axis=-1, keepdims=True)
    np.sqrt(variance + X.dtype.type(EPS), out=kept.deviation)
    np.divide(kept.X, kept.deviation, out=kept.X)
    np.multiply(kept.X, norm[0], out=kept.Y)
    np.add(kept.Y, norm[1], out=kept.Y)
    return kept.Y


def normalize_backward(norm: Array, dY: Array, kept: Normalized, dnorm: Array) -> Array:
    """Add the gradient by gain and bias to dnorm [2, I] and return dX [T, B, I], new. dY: [T, B, I], only read."""
    dnorm[0] += (dY * kept.X).sum(axis=(0, 1))
    dnorm[1] += dY.sum(axis=(0, 1))
    dX: Array = dY * norm[0]
    along = (dX * kept.X).mean(axis=-1, keepdims=True)
    dX -= dX.mean(axis=-1, keepdims=True)
    dX -= kept.X * along
    dX /= kept.deviation
    return dX


class BetweenTape:
    """The cell's tape, and buffers of what is around it."""

    def __init__(self, layer: Between, T: int, B: int, dtype: type[np.floating[Any]]) -> None:
        self.T, self.B = T, B
        self.cell: Any = layer.cell.workspace(T, B, dtype)
        self._skips = isinstance(self.cell, Skipping)  # asked once: comparing with a protocol is slow
        self.norm = Normalized(T, B, layer.inputs, dtype) if layer.layer_norm else None
        self.H = np.empty((T, B, layer.hidden), dtype)

    @property
    def since(self) -> int:
        """The first tick whose output the cell computes."""
        return self.cell.since if self._skips else 0

    @since.setter
    def since(self, tick: int) -> None:
        if self._skips:
            self.cell.since = tick


@dataclass(frozen=True)
class Between:
    """y = cell(norm(x)) + x. The parameters are the cell's and, with layer_norm, `norm` [2, I], rows gain|bias.

    The state is the cell's. With `residual`, inputs and hidden are equal.
    """

    cell: Cell
    layer_norm: bool
    residual: bool

    @property
    def inputs(self) -> int:
        """I, the cell's."""
        return self.cell.inputs

    @property
    def hidden(self) -> int:
        """H, the cell's."""
        return self.cell.hidden

    @property
    def state_size(self) -> int:
        """The cell's."""
        return self.cell.state_size

    @property
    def reach(self) -> slice:
        """The cell's."""
        return self.cell.reach

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """The cell's."""
        return self.cell.bounds

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The cell's, then gain and bias of the normalization."""
        return self.cell.shapes() | ({"norm": (2, self.inputs)} if self.layer_norm else {})

    def init_params(self, params: Params, rng: np.random.Generator) -> None:
        """Draw the cell's values; the gain is 1, the bias 0."""
        self.cell.init_params(params, rng)
        if self.layer_norm:
            params["norm"][0], params["norm"][1] = 1, 0

    def workspace(self, T: int, B: int, dtype: type[np.floating[Any]]) -> BetweenTape:
        """Return new buffers for windows of T ticks and B rows."""
        return BetweenTape(self, T, B, dtype)

    def forward(self, params: Params, state: Array, X: Array, tape: BetweenTape) -> Array:
        """Run a window: state [B, state_size], X [T, B, I] → H [T, B, H], a view of the tape."""
        read = normalize(params["norm"], X, tape.norm) if tape.norm else X
        H = self.cell.forward(params, state, read, tape.cell)
        return np.add(H, X, out=tape.H) if self.residual else H

    def state_after(self, tape: BetweenTape, steps: int) -> Array:
        """Return the cell's state after `steps` steps of the last forward, new."""
        return self.cell.state_after(tape.cell, steps)

    def backward(
        self, params: Params, tape: BetweenTape, dH: Array, dparams: Params, need_dX: bool
    ) -> tuple[Array, Array]:
        """Add the gradient to dparams: dH [T, B, H] → dX [T, B, I] and dstate [B, state_size]."""
        dX, dstate = self.cell.backward(params, tape.cell, dH, dparams, need_dX or self.layer_norm)
        if tape.norm:
            dX = normalize_backward(params["norm"], dX, tape.norm, dparams["norm"])
        return (dX + dH if self.residual and need_dX else dX), dstate

    def lag_norms(self, tape: BetweenTape) -> Array:
        """Return the L2 norm of the loss gradient by each of the cell's outputs, [T], after a backward."""
        return self.cell.lag_norms(tape.cell)

    def saturated(self, tape: BetweenTape) -> float:
        """Return the cell's saturation in the last forward."""
        return self.cell.saturated(tape.cell)

    def saturated_units(self, tape: BetweenTape) -> NDArray[np.bool_]:
        """Return the cell's."""
        return self.cell.saturated_units(tape.cell)

    def units(self, state: Array) -> Array:
        """Return the cell's."""
        return self.cell.units(state)
