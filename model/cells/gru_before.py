"""GRU with the reset gate applied to the state before the recurrent product (Cho et al. 2014, arXiv:1406.1078, eq. 5–8;
in ONNX, linear_before_reset=0; in Keras, reset_after=False).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bounds import Bound
from model.cells.contract import MAX_UNIT, Params
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


class GRUBeforeTape:
    """Buffers of one window, feature-major: rows are features, the batch is innermost."""

    def __init__(self, cell: GRUBefore, T: int, B: int, dtype: type[np.floating[Any]]) -> None:
        H, inputs = cell.hidden, cell.inputs
        self.T, self.B, self.half, self.stretches = T, B, half(dtype), stretches(T)
        self.one = np.ones((), dtype)
        self.X = np.ones((T, inputs + 1, B), dtype)  # rows [x_t; 1]
        self.h = np.empty((T + 1, H, B), dtype)
        self.A = np.empty((T, 3 * H, B), dtype)  # r, z, n
        self.RH = np.empty((T, H, B), dtype)  # r·h, which the candidate's product reads
        self.U = np.empty((2 * H, H), dtype)  # recurrent weights of r, z, halved
        self.UT = np.empty((H, 2 * H), dtype)
        self.UnT = np.empty((H, H), dtype)
        self.W = np.empty((3 * H, inputs + 1), dtype)  # input weights, those of r, z halved
        self.Q = np.empty((T, 3 * H, B), dtype)  # local derivatives
        self.dA = np.empty((T, 3 * H, B), dtype)
        self.DH = np.empty((T, H, B), dtype)
        self.dX = np.empty((T, inputs, B), dtype)
        self.dU, self.dUn = ProductScratch(2 * H, H, T, B, dtype), ProductScratch(H, H, T, B, dtype)
        self.dW = ProductScratch(3 * H, inputs + 1, T, B, dtype)
        self.dh0, self.drh, self.tmp = (np.empty((H, B), dtype) for _ in range(3))
        self.gates = np.empty((2 * H, B), dtype)


@dataclass(frozen=True)
class GRUBefore:
    """h' = n + z·(h − n), n = tanh(W_n x + b_n + U_n (r·h)). State row: [h].

    Parameters: U [3H, H] and W [3H, I+1], rows r|z|n; the last column of W holds the biases.
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
        """Range of h."""
        return (Bound("a unit", self.hidden, -MAX_UNIT, MAX_UNIT),)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Recurrent weights, and input weights with the biases."""
        return {"U": (3 * self.hidden, self.hidden), "W": (3 * self.hidden, self.inputs + 1)}

    def init_params(self, params: Params, rng: np.random.Generator) -> None:
        """Draw recurrent and input weights by `Init`; biases are 0."""
        params["U"][...] = self.init.recurrent(3, self.hidden, rng)
        params["W"][:, :-1] = self.init.input(3, self.hidden, self.inputs, rng)
        params["W"][:, -1] = 0

    def workspace(self, T: int, B: int, dtype: type[np.floating[Any]]) -> GRUBeforeTape:
        """Return new buffers for windows of T ticks and B rows."""
        return GRUBeforeTape(self, T, B, dtype)

    def forward(self, params: Params, state: Array, X: Array, tape: GRUBeforeTape) -> Array:
        """Run a window: state [B, H], X [T, B, I] → H [T, B, H], a view of the tape."""
        H, s, Un = self.hidden, tape, params["U"][2 * self.hidden :]
        np.multiply(params["U"][: 2 * H], s.half, out=s.U)
        s.W[...] = params["W"]
        s.W[: 2 * H] *= s.half
        s.X[:, :-1] = X.transpose(0, 2, 1)
        s.h[0] = state.T
        np.matmul(s.W, s.X, out=s.A)
        for t in range(s.T):
            h, a, rh, after = s.h[t], s.A[t], s.RH[t], s.h[t + 1]
            rz, r, z, n = a[: 2 * H], a[:H], a[H : 2 * H], a[2 * H :]
            np.dot(s.U, h, out=s.gates)
            np.add(rz, s.gates, out=rz)
            np.tanh(rz, out=rz)
            sigmoid_from_halved(rz, s.half)
            np.multiply(r, h, out=rh)
            np.dot(Un, rh, out=s.tmp)
            np.add(n, s.tmp, out=n)
            np.tanh(n, out=n)
            np.subtract(h, n, out=after)
            np.multiply(after, z, out=after)
            np.add(after, n, out=after)
        return s.h[1:].transpose(0, 2, 1)

    def state_after(self, tape: GRUBeforeTape, steps: int) -> Array:
        """Return h after `steps` steps of the last forward: [B, H], new."""
        after: Array = tape.h[steps].T.copy()
        return after

    def backward(
        self, params: Params, tape: GRUBeforeTape, dH: Array, dparams: Params, need_dX: bool
    ) -> tuple[Array, Array]:
        """Add the gradient to dparams: dH [T, B, H] → dX [T, B, I] and dstate [B, H]."""
        H, s = self.hidden, tape
        self._local_derivatives(s)
        np.copyto(s.UT, params["U"][: 2 * H].T)
        np.copyto(s.UnT, params["U"][2 * H :].T)
        s.DH[...] = dH.transpose(0, 2, 1)
        for ticks in s.stretches:
            for t in ticks:
                dh, da, q, r, z = s.DH[t], s.dA[t], s.Q[t], s.A[t, :H], s.A[t, H : 2 * H]
                np.multiply(dh, q[2 * H :], out=da[2 * H :])
                np.multiply(dh, q[H : 2 * H], out=da[H : 2 * H])
                np.dot(s.UnT, da[2 * H :], out=s.drh)
                np.multiply(s.drh, q[:H], out=da[:H])
                np.dot(s.UT, da[: 2 * H], out=s.dh0)
                np.multiply(s.drh, r, out=s.tmp)
                np.add(s.dh0, s.tmp, out=s.dh0)
                np.multiply(dh, z, out=s.tmp)
                np.add(s.dh0, s.tmp, out=s.dh0)
                if t:
                    np.add(s.DH[t - 1], s.dh0, out=s.DH[t - 1])
            if t and flush(s.DH[t - 1], scratch=s.tmp) and not s.DH[:t].any():
                s.dA[:t], s.dh0[...] = 0, 0
                break
        accumulate_products(dparams["U"][: 2 * H], s.dA[:, : 2 * H], s.h[:-1], s.dU)
        accumulate_products(dparams["U"][2 * H :], s.dA[:, 2 * H :], s.RH, s.dUn)
        accumulate_products(dparams["W"], s.dA, s.X, s.dW)
        if need_dX:
            np.matmul(params["W"][:, :-1].T, s.dA, out=s.dX)
        return s.dX.transpose(0, 2, 1), s.dh0.T.copy()

    def _local_derivatives(self, s: GRUBeforeTape) -> None:
        """Compute d(gate input)/dh' of z and n, and d(gate input)/d(r·h) of r, for the whole window at once."""
        H, h = self.hidden, s.h[:-1]
        r, z, n = s.A[:, :H], s.A[:, H : 2 * H], s.A[:, 2 * H :]
        q_r, q_z, q_n = s.Q[:, :H], s.Q[:, H : 2 * H], s.Q[:, 2 * H :]
        np.multiply(n, n, out=q_n)
        np.subtract(s.one, q_n, out=q_n)
        np.subtract(s.one, z, out=q_z)
        np.multiply(q_n, q_z, out=q_n)  # (1−z)(1−n²)
        np.multiply(q_z, z, out=q_z)
        np.multiply(q_z, h - n, out=q_z)  # (h−n)·z(1−z)
        np.subtract(s.one, r, out=q_r)
        np.multiply(q_r, r, out=q_r)
        np.multiply(q_r, h, out=q_r)  # h·r(1−r)

    def lag_norms(self, tape: GRUBeforeTape) -> Array:
        """Return the L2 norm of the loss gradient by each h_t, [T], after a backward."""
        return step_norms(tape.DH)

    def saturated(self, tape: GRUBeforeTape) -> float:
        """Return the fraction of the gates r, z outside 0.05..0.95 in the last forward."""
        return fraction_saturated(tape.A[:, : 2 * self.hidden])

    def saturated_units(self, tape: GRUBeforeTape) -> NDArray[np.bool_]:
        """Return the units of the last step that `saturated` counts, [B, H]."""
        return units_saturated(tape.A[-1, : 2 * self.hidden].reshape(2, self.hidden, tape.B))

    def units(self, state: Array) -> Array:
        """Return h, a view."""
        return state[:, : self.hidden]
