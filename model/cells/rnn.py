"""Elman's simple recurrent network (Elman 1990), with tanh or relu."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bounds import MAX_VALUE, Bound
from model.cells.contract import MAX_UNIT, Params
from model.cells.init import Init
from model.cells.kernels import ProductScratch, accumulate_products, flush, step_norms, stretches
from model.parameters import Array


class RNNTape:
    """Buffers of one window, feature-major: rows are features, the batch is innermost."""

    def __init__(self, cell: RNN, T: int, B: int, dtype: type[np.floating[Any]]) -> None:
        H, K = cell.hidden, cell.hidden + cell.inputs + 1
        self.T, self.B, self.zero = T, B, np.zeros((), dtype)
        self.XH = np.zeros((T + 1, K, B), dtype)  # rows [h_{t-1}; x_t; 1]: a step writes h where the next step reads it
        self.XH[:, -1] = 1
        self.WhT = np.empty((H, H), dtype)
        self.dW = ProductScratch(H, K, T, B, dtype)
        self.Q = np.empty((T, H, B), dtype)  # local derivatives
        self.dA = np.empty((T, H, B), dtype)
        self.DH = np.empty((T + 1, H, B), dtype)  # total gradient by h, the start state first
        self.dX = np.empty((T, cell.inputs, B), dtype)
        self.dh0 = np.empty((H, B), dtype)
        # Slicing inside the loop would cost as much as the arithmetic.
        self.forward_views = [(self.XH[t], self.XH[t + 1, :H]) for t in range(T)]
        views = [(self.DH[t + 1], self.Q[t], self.dA[t], self.DH[t]) for t in range(T)]
        self.backward_views = [(ticks[-1], [views[t] for t in ticks]) for ticks in stretches(T)]


@dataclass(frozen=True)
class RNN:
    """h' = act(W·[h; x; 1]). State row: [h]. Parameter W [H, H+I+1], columns h|x|1. activation: tanh or relu."""

    inputs: int
    hidden: int
    activation: str
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
        low, high = (0.0, MAX_VALUE) if self.activation == "relu" else (-MAX_UNIT, MAX_UNIT)
        return (Bound("a unit", self.hidden, low, high),)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """One matrix; its last column holds the biases."""
        return {"W": (self.hidden, self.hidden + self.inputs + 1)}

    def init_params(self, params: Params, rng: np.random.Generator) -> None:
        """Draw recurrent and input weights by `Init`; biases are 0."""
        W, H = params["W"], self.hidden
        W[:, :H] = self.init.recurrent(1, H, rng)
        W[:, H:-1] = self.init.input(1, H, self.inputs, rng)
        W[:, -1] = 0

    def workspace(self, T: int, B: int, dtype: type[np.floating[Any]]) -> RNNTape:
        """Return new buffers for windows of T ticks and B rows."""
        return RNNTape(self, T, B, dtype)

    def forward(self, params: Params, state: Array, X: Array, tape: RNNTape) -> Array:
        """Run a window: state [B, H], X [T, B, I] → H [T, B, H], a view of the tape."""
        H, s, W = self.hidden, tape, params["W"]
        s.XH[0, :H] = state.T
        s.XH[:-1, H:-1] = X.transpose(0, 2, 1)
        dot, tanh, maximum, zero = np.dot, np.tanh, np.maximum, s.zero
        if self.activation == "relu":
            for xh, h in s.forward_views:
                dot(W, xh, out=h)
                maximum(h, zero, out=h)
        else:
            for xh, h in s.forward_views:
                dot(W, xh, out=h)
                tanh(h, out=h)
        return s.XH[1:, :H].transpose(0, 2, 1)

    def state_after(self, tape: RNNTape, steps: int) -> Array:
        """Return h after `steps` steps of the last forward: [B, H], new."""
        return tape.XH[steps, : self.hidden].T.copy()

    def backward(self, params: Params, tape: RNNTape, dH: Array, dparams: Params, need_dX: bool) -> tuple[Array, Array]:
        """Add the gradient to dparams: dH [T, B, H] → dX [T, B, I] and dstate [B, H]."""
        H, s = self.hidden, tape
        self._local_derivatives(s)
        np.copyto(s.WhT, params["W"][:, :H].T)
        s.DH[0] = 0
        s.DH[1:] = dH.transpose(0, 2, 1)
        dot, multiply, add, WhT, dh0 = np.dot, np.multiply, np.add, s.WhT, s.dh0
        for t, views in s.backward_views:
            for dh, q, da, before in views:
                multiply(dh, q, out=da)
                dot(WhT, da, out=dh0)
                add(before, dh0, out=before)
            if t and flush(s.DH[t], scratch=dh0) and not s.DH[1:t].any():
                s.dA[:t] = 0
                break
        accumulate_products(dparams["W"], s.dA, s.XH[:-1], s.dW)
        if need_dX:
            np.matmul(params["W"][:, H:-1].T, s.dA, out=s.dX)
        return s.dX.transpose(0, 2, 1), s.DH[0].T.copy()

    def _local_derivatives(self, s: RNNTape) -> None:
        """Compute the activation's derivative for the whole window at once: tanh 1 − h²; relu 1 where h > 0."""
        h = s.XH[1:, : self.hidden]
        if self.activation == "relu":
            np.greater(h, s.zero, out=s.Q)
        else:
            np.multiply(h, h, out=s.Q)
            np.subtract(1, s.Q, out=s.Q)

    def lag_norms(self, tape: RNNTape) -> Array:
        """Return the L2 norm of the loss gradient by each h_t, [T], after a backward."""
        return step_norms(tape.DH[1:])

    def saturated(self, tape: RNNTape) -> float:
        """Return the fraction of units in the last forward that pass almost no gradient: tanh beyond ±0.9, relu 0."""
        h = tape.XH[1:, : self.hidden]
        return float(np.mean(h <= 0 if self.activation == "relu" else np.abs(h) > 0.9))

    def saturated_units(self, tape: RNNTape) -> NDArray[np.bool_]:
        """Return the units of the last step that `saturated` counts, [B, H]."""
        h = tape.XH[-1, : self.hidden].T
        found: NDArray[np.bool_] = h <= 0 if self.activation == "relu" else np.abs(h) > 0.9
        return found

    def units(self, state: Array) -> Array:
        """Return h, a view."""
        return state[:, : self.hidden]
