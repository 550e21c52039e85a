"""minGRU: gate and candidate read only the input, so a window's products are one (Feng et al. 2024, arXiv:2410.01201,
section 3.1, without the logarithmic form).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bounds import Bound
from model.cells.contract import FLOOR, MAX_SUM, Params
from model.cells.init import Init
from model.cells.kernels import (
    ProductScratch,
    accumulate_products,
    flush,
    fraction_saturated,
    half,
    sigmoid_from_halved,
    step_norms,
    stretches,
    units_saturated,
)
from model.parameters import Array


class MinGRUTape:
    """Buffers of one window, feature-major: rows are features, the batch is innermost."""

    def __init__(self, cell: MinGRU, T: int, B: int, dtype: type[np.floating[Any]]) -> None:
        H, inputs = cell.hidden, cell.inputs
        self.T, self.B, self.half, self.stretches = T, B, half(dtype), stretches(T)
        self.one = np.ones((), dtype)
        self.X = np.ones((T, inputs + 1, B), dtype)  # rows [x_t; 1]
        self.h = np.empty((T + 1, H, B), dtype)
        self.W = np.empty((2 * H, inputs + 1), dtype)  # rows of z halved
        self.A = np.empty((T, 2 * H, B), dtype)  # z, candidate
        self.keep = np.empty((T, H, B), dtype)  # 1 − z
        self.dA = np.empty((T, 2 * H, B), dtype)
        self.DH = np.empty((T + 1, H, B), dtype)  # total gradient by h, the start state first
        self.dX = np.empty((T, inputs, B), dtype)
        self.dW = ProductScratch(2 * H, inputs + 1, T, B, dtype)
        self.tmp = np.empty((H, B), dtype)


@dataclass(frozen=True)
class MinGRU:
    """h' = (1−z)·h + z·n, z = σ(W_z x + b_z), n = W_n x + b_n. State row: [h].

    Parameter W [2H, I+1], rows z|n; the last column holds the biases.
    """

    inputs: int
    hidden: int
    init: Init

    @property
    def state_size(self) -> int:
        """H: h alone."""
        return self.hidden

    @property
    def reach(self) -> slice:
        """h."""
        return slice(0, self.hidden)

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """Range of h, a mean of weighted inputs."""
        return (Bound("a unit", self.hidden, -MAX_SUM, MAX_SUM),)

    @property
    def trace_size(self) -> int:
        """2H·(I+1), as z|n × columns of W × units: ∂h/∂W, each unit by its own rows."""
        return 2 * self.hidden * (self.inputs + 1)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """One matrix; its last column holds the biases."""
        return {"W": (2 * self.hidden, self.inputs + 1)}

    def init_params(self, params: Params, rng: np.random.Generator) -> None:
        """Draw input weights by `Init`; biases are 0."""
        params["W"][:, :-1] = self.init.input(2, self.hidden, self.inputs, rng)
        params["W"][:, -1] = 0

    def workspace(self, T: int, B: int, dtype: type[np.floating[Any]]) -> MinGRUTape:
        """Return new buffers for windows of T ticks and B rows."""
        return MinGRUTape(self, T, B, dtype)

    def forward(self, params: Params, state: Array, X: Array, tape: MinGRUTape) -> Array:
        """Run a window: state [B, H], X [T, B, I] → H [T, B, H], a view of the tape."""
        H, s = self.hidden, tape
        s.W[...] = params["W"]
        s.W[:H] *= s.half
        s.W[H:, -1] += s.W.dtype.type(FLOOR)
        s.X[:, :-1] = X.transpose(0, 2, 1)
        s.h[0] = state.T
        np.matmul(s.W, s.X, out=s.A)
        z, n = s.A[:, :H], s.A[:, H:]
        np.tanh(z, out=z)
        sigmoid_from_halved(z, s.half)
        np.subtract(s.one, z, out=s.keep)
        into = s.h[1:]
        np.multiply(z, n, out=into)
        multiply, add, tmp = np.multiply, np.add, s.tmp
        for t in range(s.T):
            multiply(s.h[t], s.keep[t], out=tmp)
            add(into[t], tmp, out=into[t])
        return into.transpose(0, 2, 1)

    def state_after(self, tape: MinGRUTape, steps: int) -> Array:
        """Return h after `steps` steps of the last forward: [B, H], new."""
        after: Array = tape.h[steps].T.copy()
        return after

    def backward(
        self, params: Params, tape: MinGRUTape, dH: Array, dparams: Params, need_dX: bool
    ) -> tuple[Array, Array]:
        """Add the gradient to dparams: dH [T, B, H] → dX [T, B, I] and dstate [B, H]."""
        H, s = self.hidden, tape
        s.DH[0] = 0
        s.DH[1:] = dH.transpose(0, 2, 1)
        multiply, add, tmp = np.multiply, np.add, s.tmp
        for ticks in s.stretches:
            for t in ticks:
                multiply(s.DH[t + 1], s.keep[t], out=tmp)
                add(s.DH[t], tmp, out=s.DH[t])
            if t and flush(s.DH[t], scratch=tmp) and not s.DH[1:t].any():
                break
        self._local_derivatives(s)
        dz, dn, D = s.dA[:, :H], s.dA[:, H:], s.DH[1:]
        multiply(dz, D, out=dz)
        multiply(dn, D, out=dn)
        accumulate_products(dparams["W"], s.dA, s.X, s.dW)
        if need_dX:
            np.matmul(params["W"][:, :-1].T, s.dA, out=s.dX)
        return s.dX.transpose(0, 2, 1), s.DH[0].T.copy()

    def _local_derivatives(self, s: MinGRUTape) -> None:
        """Compute dh'/d(gate input) and dh'/d(candidate) of the whole window into dA."""
        H = self.hidden
        z, n, by_z = s.A[:, :H], s.A[:, H:], s.dA[:, :H]
        np.subtract(n, s.h[:-1], out=by_z)
        np.multiply(by_z, z, out=by_z)
        np.multiply(by_z, s.keep, out=by_z)  # (n − h)·z(1 − z)
        s.dA[:, H:] = z

    def advance_trace(self, tape: MinGRUTape, trace: Array, steps: int) -> Array:
        """Return ∂h/∂W after `steps` steps of the last forward: [B, trace_size], new; trace: before them.

        Each unit depends on its own rows of W only: e' = (1−z)·e + ∂h'/∂W, where the state before is held fixed.
        """
        B, H, s = len(trace), self.hidden, tape
        after = trace.reshape(B, 2, self.inputs + 1, H).copy()
        floor = after.dtype.type(FLOOR)
        for t in range(steps):
            z, n, keep, h = (part[:, :B].T for part in (s.A[t, :H], s.A[t, H:], s.keep[t], s.h[t]))
            x = s.X[t, :, :B].T[..., None]
            after *= keep[:, None, None]
            after += floor
            after[:, 0] += ((n - h) * z * keep)[:, None] * x
            after[:, 1] += z[:, None] * x
        return after.reshape(B, -1)

    def trace_gradient(self, trace: Array, dstate: Array, dparams: Params) -> None:
        """Add dstate·∂h/∂W to dparams, summed over rows. trace: [B, trace_size], dstate: [B, H]; only read."""
        e = trace.reshape(len(trace), 2, self.inputs + 1, self.hidden)
        by = (e * dstate[:, None, None]).sum(axis=0)
        dparams["W"].reshape(2, self.hidden, -1)[...] += by.transpose(0, 2, 1)

    def lag_norms(self, tape: MinGRUTape) -> Array:
        """Return the L2 norm of the loss gradient by each h_t, [T], after a backward."""
        return step_norms(tape.DH[1:])

    def saturated(self, tape: MinGRUTape) -> float:
        """Return the fraction of the gate z outside 0.05..0.95 in the last forward."""
        return fraction_saturated(tape.A[:, : self.hidden])

    def saturated_units(self, tape: MinGRUTape) -> NDArray[np.bool_]:
        """Return the units of the last step that `saturated` counts, [B, H]."""
        return units_saturated(tape.A[-1:, : self.hidden])

    def units(self, state: Array) -> Array:
        """Return h, a view."""
        return state[:, : self.hidden]
