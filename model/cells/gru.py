"""GRU with the reset gate applied after the recurrent product (Cho et al. 2014, arXiv:1406.1078; in ONNX,
linear_before_reset=1).
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
    step_norms,
    stretches,
    units_saturated,
)
from model.parameters import Array


class GRUTape:
    """Buffers of one window, feature-major. Gate rows [hn, r, z, n]: [hn, r, z] and [r, z, n] are both contiguous."""

    def __init__(self, cell: GRU, T: int, B: int, dtype: type[np.floating[Any]]) -> None:
        H, inputs = cell.hidden, cell.inputs
        self.T, self.B, self.half, self.one = T, B, half(dtype), np.ones((), dtype)
        self.XH = np.zeros((T + 1, H + 1 + inputs, B), dtype)  # rows [h_{t-1}; 1; x_t]
        self.XH[:, H] = 1
        self.A = np.empty((T, 4 * H, B), dtype)
        self.NX = np.empty((T, H, B), dtype)  # the candidate's input product
        self.W = np.zeros((3 * H, H + 1 + inputs), dtype)  # [hn, r, z] by [h; 1; x], sigmoid rows halved
        self.UhT = np.empty((H, 3 * H), dtype)
        self.dU = ProductScratch(3 * H, H + 1, T, B, dtype)
        self.dW = ProductScratch(3 * H, inputs, T, B, dtype)
        self.Q = np.empty((T, 4 * H, B), dtype)
        self.dA = np.empty((T, 4 * H, B), dtype)
        self.DH = np.empty((T + 1, H, B), dtype)  # total gradient by h, the start state first
        self.dX = np.empty((T, inputs, B), dtype)
        self.dh0 = np.empty((H, B), dtype)
        self.tmp = np.empty((H, B), dtype)
        A, XH = self.A, self.XH
        self.forward_views = [
            (XH[t], A[t, : 3 * H], A[t, H : 3 * H], A[t, :H], A[t, H : 2 * H], A[t, 2 * H : 3 * H], A[t, 3 * H :],
             self.NX[t], XH[t, :H], XH[t + 1, :H])
            for t in range(T)
        ]  # fmt: skip
        views = [
            (self.DH[t + 1], self.Q[t].reshape(4, H, B), self.dA[t].reshape(4, H, B), self.dA[t, : 3 * H],
             A[t, 2 * H : 3 * H], self.DH[t])
            for t in range(T)
        ]  # fmt: skip
        self.backward_views = [(ticks[-1], [views[t] for t in ticks]) for ticks in stretches(T)]


@dataclass(frozen=True)
class GRU:
    """h' = n + z·(h − n), n = tanh(W_n x + b_n + r·(U_n h + b_hn)). State row: [h].

    Parameters: U [3H, H+1], rows hn|r|z, columns h|1; W [3H, I], rows r|z|n; b [H], the candidate's own bias.
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
        """Recurrent weights with hn's bias, input weights, and the candidate's own bias."""
        H = self.hidden
        return {"U": (3 * H, H + 1), "W": (3 * H, self.inputs), "b": (H,)}

    def init_params(self, params: Params, rng: np.random.Generator) -> None:
        """Draw recurrent and input weights by `Init`; biases are 0."""
        H = self.hidden
        params["U"][:, :H] = self.init.recurrent(3, H, rng)
        params["U"][:, H] = 0
        params["W"][...] = self.init.input(3, H, self.inputs, rng)
        params["b"][...] = 0

    def workspace(self, T: int, B: int, dtype: type[np.floating[Any]]) -> GRUTape:
        """Return new buffers for windows of T ticks and B rows."""
        return GRUTape(self, T, B, dtype)

    def forward(self, params: Params, state: Array, X: Array, tape: GRUTape) -> Array:
        """Run a window: state [B, H], X [T, B, I] → H [T, B, H], a view of the tape."""
        H, s = self.hidden, tape
        s.W[:, : H + 1] = params["U"]
        s.W[H:, H + 1 :] = params["W"][: 2 * H]
        s.W[H:] *= s.half
        s.XH[0, :H] = state.T
        s.XH[:-1, H + 1 :] = X.transpose(0, 2, 1)
        np.matmul(params["W"][2 * H :], s.XH[:-1, H + 1 :], out=s.NX)
        s.NX += params["b"][:, None]
        dot, multiply, add, subtract, tanh, W, half = np.dot, np.multiply, np.add, np.subtract, np.tanh, s.W, s.half
        for xh, a, rz, hn, r, z, n, nx, h, h_next in s.forward_views:
            dot(W, xh, out=a)
            tanh(rz, out=rz)
            multiply(rz, half, out=rz)  # σ(x) = ½·tanh(x/2) + ½
            add(rz, half, out=rz)
            multiply(r, hn, out=n)
            add(n, nx, out=n)
            tanh(n, out=n)
            subtract(h, n, out=h_next)
            multiply(h_next, z, out=h_next)
            add(h_next, n, out=h_next)
        return s.XH[1:, :H].transpose(0, 2, 1)

    def state_after(self, tape: GRUTape, steps: int) -> Array:
        """Return h after `steps` steps of the last forward: [B, H], new."""
        return tape.XH[steps, : self.hidden].T.copy()

    def backward(self, params: Params, tape: GRUTape, dH: Array, dparams: Params, need_dX: bool) -> tuple[Array, Array]:
        """Add the gradient to dparams: dH [T, B, H] → dX [T, B, I] and dstate [B, H]."""
        H, s = self.hidden, tape
        self._local_derivatives(s)
        np.copyto(s.UhT, params["U"][:, :H].T)
        s.DH[0] = 0
        s.DH[1:] = dH.transpose(0, 2, 1)
        dot, multiply, add, UhT, dh0, tmp = np.dot, np.multiply, np.add, s.UhT, s.dh0, s.tmp
        for t, views in s.backward_views:
            for dh, q, da, da_hrz, z, before in views:
                multiply(q, dh, out=da)
                dot(UhT, da_hrz, out=dh0)
                multiply(dh, z, out=tmp)
                add(dh0, tmp, out=dh0)
                add(before, dh0, out=before)
            if t and flush(s.DH[t], scratch=tmp) and not s.DH[1:t].any():
                s.dA[:t] = 0
                break
        X = s.XH[:-1]
        accumulate_products(dparams["U"], s.dA[:, : 3 * H], X[:, : H + 1], s.dU)
        accumulate_products(dparams["W"], s.dA[:, H:], X[:, H + 1 :], s.dW)
        np.add(dparams["b"], s.dA[:, 3 * H :].sum(axis=(0, 2)), out=dparams["b"])
        if need_dX:
            np.matmul(params["W"].T, s.dA[:, H:], out=s.dX)
        return s.dX.transpose(0, 2, 1), s.DH[0].T.copy()

    def _local_derivatives(self, s: GRUTape) -> None:
        """Compute d(gate input)/dh of hn, r, z, n for the whole window at once."""
        H = self.hidden
        A, Q, off = s.A, s.Q, s.dA[:, :H]  # dA is free until the loop
        hn, r, z, n = A[:, :H], A[:, H : 2 * H], A[:, 2 * H : 3 * H], A[:, 3 * H :]
        q_hn, q_r, q_z, q_n = Q[:, :H], Q[:, H : 2 * H], Q[:, 2 * H : 3 * H], Q[:, 3 * H :]
        np.multiply(n, n, out=q_n)
        np.subtract(s.one, q_n, out=q_n)
        np.subtract(s.one, z, out=q_z)
        np.multiply(q_n, q_z, out=q_n)  # (1−z)(1−n²)
        np.multiply(q_n, r, out=q_hn)
        np.subtract(s.one, r, out=q_r)
        np.multiply(q_r, q_hn, out=q_r)
        np.multiply(q_r, hn, out=q_r)  # q_n·hn·r(1−r)
        np.multiply(q_z, z, out=q_z)
        np.subtract(s.XH[:-1, :H], n, out=off)
        np.multiply(q_z, off, out=q_z)  # (h−n)·z(1−z)

    def lag_norms(self, tape: GRUTape) -> Array:
        """Return the L2 norm of the loss gradient by each h_t, [T], after a backward."""
        return step_norms(tape.DH[1:])

    def saturated(self, tape: GRUTape) -> float:
        """Return the fraction of the gates r, z outside 0.05..0.95 in the last forward."""
        return fraction_saturated(tape.A[:, self.hidden : 3 * self.hidden])

    def saturated_units(self, tape: GRUTape) -> NDArray[np.bool_]:
        """Return the units of the last step that `saturated` counts, [B, H]."""
        return units_saturated(tape.A[-1, self.hidden : 3 * self.hidden].reshape(2, self.hidden, tape.B))

    def units(self, state: Array) -> Array:
        """Return h, a view."""
        return state[:, : self.hidden]
