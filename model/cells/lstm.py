"""LSTM with a forget gate and without peepholes (Gers, Schmidhuber & Cummins 2000, eq. 2.1–2.7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bounds import Bound
from model.cells.contract import MAX_MEMORY, MAX_UNIT, Params
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


class LSTMTape:
    """Buffers of one window, feature-major: rows are features, the batch is innermost."""

    def __init__(self, cell: LSTM, T: int, B: int, dtype: type[np.floating[Any]]) -> None:
        H, K = cell.hidden, cell.hidden + cell.inputs + 1
        self.T, self.B, self.half = T, B, half(dtype)
        self.XH = np.zeros((T + 1, K, B), dtype)  # rows [h_{t-1}; x_t; 1]
        self.XH[:, -1] = 1
        self.A = np.zeros((T + 1, 5 * H, B), dtype)  # rows [o, i, f, g, c_{t-1}]
        self.P = np.empty((2 * H, B), dtype)  # [i·g, f·c]
        self.tanh_c = np.empty((T, H, B), dtype)
        self.W = np.empty((4 * H, K), dtype)  # W with the sigmoid rows halved
        self.WhT = np.empty((H, 4 * H), dtype)
        self.dW = ProductScratch(4 * H, K, T, B, dtype)
        self.Q = np.empty((T, 4 * H, B), dtype)  # local derivatives of [o, i, f, g]
        self.Qc = np.empty((T, H, B), dtype)
        self.dA = np.empty((T, 4 * H, B), dtype)
        self.DH = np.empty((T + 1, H, B), dtype)  # total gradient by h, the start state first
        self.dX = np.empty((T, cell.inputs, B), dtype)
        self.dc = np.empty((H, B), dtype)
        self.dh0 = np.empty((H, B), dtype)
        self.tmp = np.empty((H, B), dtype)
        A, XH, P = self.A, self.XH, self.P
        # Slicing inside the loop would cost as much as the arithmetic.
        self.forward_views = [
            (XH[t], A[t, : 4 * H], A[t, : 3 * H], A[t, H : 3 * H], A[t, 3 * H :], P, P[:H], P[H:], A[t + 1, 4 * H :],
             self.tanh_c[t], A[t, :H], XH[t + 1, :H])
            for t in range(T)
        ]  # fmt: skip
        views = [
            (self.DH[t + 1], self.Q[t, :H], self.dA[t, :H], self.Qc[t], self.Q[t, H:].reshape(3, H, B),
             self.dA[t, H:].reshape(3, H, B), A[t, 2 * H : 3 * H], self.dA[t], self.DH[t])
            for t in range(T)
        ]  # fmt: skip
        self.backward_views = [(ticks[-1], [views[t] for t in ticks]) for ticks in stretches(T)]


@dataclass(frozen=True)
class LSTM:
    """h' = o·tanh(c'), c' = f·c + i·g. State row: [h, c]. Parameter W [4H, H+I+1], rows o|i|f|g, columns h|x|1."""

    inputs: int
    hidden: int
    init: Init

    @property
    def state_size(self) -> int:
        """2H: h, then c."""
        return 2 * self.hidden

    @property
    def reach(self) -> slice:
        """h."""
        return slice(0, self.hidden)

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """Range of h and of c."""
        H = self.hidden
        return (
            Bound("a unit", H, -MAX_UNIT, MAX_UNIT),
            Bound("a memory cell", H, -MAX_MEMORY, MAX_MEMORY),
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """One matrix; its last column holds the biases."""
        return {"W": (4 * self.hidden, self.hidden + self.inputs + 1)}

    def init_params(self, params: Params, rng: np.random.Generator) -> None:
        """Draw recurrent and input weights by `Init`; the forget gate's biases are 1, the others 0."""
        W, H = params["W"], self.hidden
        W[:, :H] = self.init.recurrent(4, H, rng)
        W[:, H:-1] = self.init.input(4, H, self.inputs, rng)
        W[:, -1] = 0
        W[2 * H : 3 * H, -1] = 1

    def workspace(self, T: int, B: int, dtype: type[np.floating[Any]]) -> LSTMTape:
        """Return new buffers for windows of T ticks and B rows."""
        return LSTMTape(self, T, B, dtype)

    def forward(self, params: Params, state: Array, X: Array, tape: LSTMTape) -> Array:
        """Run a window: state [B, 2H], X [T, B, I] → H [T, B, H], a view of the tape."""
        H, s = self.hidden, tape
        s.W[...] = params["W"]
        s.W[: 3 * H] *= s.half
        s.XH[0, :H] = state[:, :H].T
        s.A[0, 4 * H :] = state[:, H:].T
        s.XH[:-1, H:-1] = X.transpose(0, 2, 1)
        dot, multiply, add, tanh, W, half = np.dot, np.multiply, np.add, np.tanh, s.W, s.half
        for xh, a, oif, i_f, gc, P, ig, fc, c, tanh_c, o, h in s.forward_views:
            dot(W, xh, out=a)
            tanh(a, out=a)
            multiply(oif, half, out=oif)  # σ(x) = ½·tanh(x/2) + ½
            add(oif, half, out=oif)
            multiply(i_f, gc, out=P)
            add(ig, fc, out=c)
            tanh(c, out=tanh_c)
            multiply(o, tanh_c, out=h)
        return s.XH[1:, :H].transpose(0, 2, 1)

    def state_after(self, tape: LSTMTape, steps: int) -> Array:
        """Return h and c after `steps` steps of the last forward: [B, 2H], new."""
        H = self.hidden
        return np.concatenate([tape.XH[steps, :H].T, tape.A[steps, 4 * H :].T], axis=1)

    def backward(
        self, params: Params, tape: LSTMTape, dH: Array, dparams: Params, need_dX: bool
    ) -> tuple[Array, Array]:
        """Add the gradient to dparams: dH [T, B, H] → dX [T, B, I] and dstate [B, 2H]."""
        H, s = self.hidden, tape
        self._local_derivatives(s)
        np.copyto(s.WhT, params["W"][:, :H].T)
        s.DH[0] = 0
        s.DH[1:] = dH.transpose(0, 2, 1)
        s.dc[...] = 0
        dot, multiply, add, WhT, dc, dh0, tmp = np.dot, np.multiply, np.add, s.WhT, s.dc, s.dh0, s.tmp
        for t, views in s.backward_views:
            for dh, q_o, da_o, q_c, q_ifg, da_ifg, f, da, before in views:
                multiply(dh, q_o, out=da_o)
                multiply(dh, q_c, out=tmp)
                add(dc, tmp, out=dc)
                multiply(q_ifg, dc, out=da_ifg)
                multiply(dc, f, out=dc)
                dot(WhT, da, out=dh0)
                add(before, dh0, out=before)
            if t and flush(s.DH[t], dc, scratch=tmp) and not s.DH[1:t].any():
                s.dA[:t] = 0
                break
        accumulate_products(dparams["W"], s.dA, s.XH[:-1], s.dW)
        if need_dX:
            np.matmul(params["W"][:, H:-1].T, s.dA, out=s.dX)
        return s.dX.transpose(0, 2, 1), np.concatenate([s.DH[0].T, s.dc.T], axis=1)

    def _local_derivatives(self, s: LSTMTape) -> None:
        """Compute d(gate input)/dh of o, d(gate input)/dc of i, f, g, and dc/dh for the whole window at once."""
        H = self.hidden
        A, Q, tanh_c = s.A[:-1], s.Q, s.tanh_c
        o, i, g = A[:, :H], A[:, H : 2 * H], A[:, 3 * H : 4 * H]
        oif = A[:, : 3 * H]
        np.multiply(oif, oif, out=Q[:, : 3 * H])
        np.subtract(oif, Q[:, : 3 * H], out=Q[:, : 3 * H])  # σ' = s − s²
        Q[:, :H] *= tanh_c
        Q[:, H : 3 * H] *= A[:, 3 * H :]  # i pairs with g, f with c_{t-1}
        np.multiply(g, g, out=Q[:, 3 * H :])
        np.multiply(Q[:, 3 * H :], i, out=Q[:, 3 * H :])
        np.subtract(i, Q[:, 3 * H :], out=Q[:, 3 * H :])
        np.multiply(tanh_c, tanh_c, out=s.Qc)
        np.multiply(s.Qc, o, out=s.Qc)
        np.subtract(o, s.Qc, out=s.Qc)

    def lag_norms(self, tape: LSTMTape) -> Array:
        """Return the L2 norm of the loss gradient by each h_t, [T], after a backward."""
        return step_norms(tape.DH[1:])

    def saturated(self, tape: LSTMTape) -> float:
        """Return the fraction of the gates o, i, f outside 0.05..0.95 in the last forward."""
        return fraction_saturated(tape.A[:-1, : 3 * self.hidden])

    def saturated_units(self, tape: LSTMTape) -> NDArray[np.bool_]:
        """Return the units of the last step that `saturated` counts, [B, H]."""
        return units_saturated(tape.A[tape.T - 1, : 3 * self.hidden].reshape(3, self.hidden, tape.B))

    def units(self, state: Array) -> Array:
        """Return h, a view."""
        return state[:, : self.hidden]
