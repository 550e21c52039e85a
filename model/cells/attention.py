"""A pre-norm transformer block with causal attention over the last W ticks (Vaswani et al. 2017, arXiv:1706.03762; the
norm inside the residual branch as in Xiong et al. 2020, arXiv:2002.04745).

The state is the ring of keys and values of the last W ticks. Outputs of different ticks do not depend on each other, so
a window is computed at once, and outputs that nothing reads are left out (`since`). Arrays of a window are [T·B, …], in
the order of time: the ticks from one on are contiguous. Products take the whole window, so that their last bits depend
on its length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.attend import BLOCK, Attention, phases, score_width, turn
from model.bounds import MAX_VALUE, Bound
from model.cells.contract import Params
from model.cells.kernels import linear, linear_backward, standardize, standardize_backward, step_norms
from model.parameters import Array

WIDER = 2  # units of the block's inner layer, per unit
UNIT_FLOATS = 17
BRANCH = 0.1  # factor on the first weights that end a branch; with 0, no gradient would reach the past at first


class BlockTape:
    """Buffers of one window."""

    def __init__(self, cell: Block, T: int, B: int, dtype: type[np.floating[Any]]) -> None:
        d, n, L = cell.hidden, T * B, cell.window - 1 + T
        self.T, self.B, self.since = T, B, 0
        self.X = np.ones((n, cell.inputs + 1), dtype)  # [x, 1]
        self.U, self.A, self.R, self.dA, self.dU, self.Q, self.dQ = (np.empty((n, d), dtype) for _ in range(7))
        self.N1, self.N2 = (np.empty((n, d), dtype) for _ in range(2))  # norm(u), norm(a)
        self.M, self.dM, self.new = (np.empty((n, 2 * d), dtype) for _ in range(3))  # new: keys and values, time-major
        self.H = np.zeros((n, d), dtype)
        self.inverse = np.empty((3, n, 1), dtype)  # of the deviations
        # The W − 1 newest slots of the ring, then the window's; kept: keys that are not turned.
        self.kept, self.V, self.dK, self.dV = (np.empty((B, L, d), dtype) for _ in range(4))
        self.K = np.empty((B, L, d), dtype) if cell.rotary else self.kept
        self.filled = np.empty(B, dtype)  # slots of the ring before the window
        self.attention = Attention(T, B, d, cell.heads, cell.window, dtype)
        self.turned = np.tile(phases(L, d // cell.heads, dtype), cell.heads)


@dataclass(frozen=True)
class Block:
    """y = norm(a + M2·relu(M1·norm(a))), a = u + O·attention(QKV·norm(u)), u = E·x. norm(v) = (v − mean) / deviation.

    State row: [keys W·d, values W·d, count], slots from the oldest tick to the newest; the newest `count` exist.
    Parameters, with d = hidden: E [d, I+1], M1 [2d, d+1] and M2 [d, 2d+1], each with a column of biases; QKV [3d, d];
    b [2d], the biases of queries and values; O [d, d]. A bias of keys would shift all scores of a query alike. The
    norms have no gain and bias of their own: what reads them is linear, and has both. For learned positions `lags`
    [heads, W], added to the scores by ticks back, the own tick first (T5's bias, Raffel et al. 2020, arXiv:1910.10683,
    with a bucket per tick). Otherwise positions are rotary (Su et al. 2021, arXiv:2104.09864): the ring keeps keys that
    are not turned.
    """

    inputs: int
    hidden: int
    window: int
    heads: int
    rotary: bool

    @property
    def state_size(self) -> int:
        """2·W·d + 1."""
        return 2 * self.window * self.hidden + 1

    @property
    def reach(self) -> slice:
        """The values, which the attention sums."""
        size = self.window * self.hidden
        return slice(size, 2 * size)

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """Range of keys, values and the count of slots."""
        size = self.window * self.hidden
        return (
            Bound("a key", size, -MAX_VALUE, MAX_VALUE),
            Bound("a value", size, -MAX_VALUE, MAX_VALUE),
            Bound("the count of ticks in the window", 1, 0, self.window),
        )

    def unrolled(self, ticks: int) -> int:
        """Return the floats of a tape for one row, divided by the 17 that an LSTM's takes for each unit and tick."""
        d, L = self.hidden, self.window - 1 + ticks
        scores = self.heads * score_width(self.window, ticks) * (ticks + BLOCK)
        return -(-(18 * d * ticks + self.inputs * ticks + 5 * d * L + scores) // UNIT_FLOATS)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name and shape of each parameter."""
        d, wide = self.hidden, WIDER * self.hidden
        shapes: dict[str, tuple[int, ...]] = {
            "E": (d, self.inputs + 1), "QKV": (3 * d, d), "b": (2 * d,), "O": (d, d), "M1": (wide, d + 1),
            "M2": (d, wide + 1),
        }  # fmt: skip
        return shapes if self.rotary else shapes | {"lags": (self.heads, self.window)}

    def init_params(self, params: Params, rng: np.random.Generator) -> None:
        """Draw normal weights with deviation 1/√columns; O and M2 at a tenth, so that a new block is nearly norm(u).

        Biases and `lags` are 0.
        """
        for weights in params.values():
            weights[...] = 0
        for W in (params["E"][:, :-1], params["QKV"], params["M1"][:, :-1]):
            W[...] = rng.standard_normal(W.shape) / np.sqrt(W.shape[1])
        for W in (params["O"], params["M2"][:, :-1]):
            W[...] = BRANCH * rng.standard_normal(W.shape) / np.sqrt(W.shape[1])

    def workspace(self, T: int, B: int, dtype: type[np.floating[Any]]) -> BlockTape:
        """Return new buffers for windows of T ticks and B rows."""
        return BlockTape(self, T, B, dtype)

    def forward(self, params: Params, state: Array, X: Array, tape: BlockTape) -> Array:
        """Run a window: state [B, state_size], X [T, B, I] → H [T, B, d], a view of the tape, 0 before tape.since."""
        s, n = tape, tape.since * tape.B
        s.X[:, :-1] = X.reshape(len(s.X), -1)
        np.dot(s.X, params["E"].T, out=s.U)
        standardize(s.U, s.N1, s.inverse[0])
        self._fill(state, s)
        A = np.dot(self._attend(params, s), params["O"].T, out=s.A[n:])
        A += s.U[n:]
        standardize(A, s.N2[n:], s.inverse[1, n:])
        M = linear(params["M1"], s.N2[n:], s.M[n:])
        np.maximum(M, M.dtype.type(0), out=M)
        R = linear(params["M2"], M, s.R[n:])
        R += A
        s.H[:n] = 0
        standardize(R, s.H[n:], s.inverse[2, n:])
        return s.H.reshape(s.T, s.B, -1)

    def _fill(self, state: Array, s: BlockTape) -> None:
        """Copy the newest W − 1 slots of the ring in front of the window's keys and values."""
        B, W, d = s.B, self.window, self.hidden
        s.kept[:, : W - 1] = state[:, : W * d].reshape(B, W, d)[:, 1:]
        s.V[:, : W - 1] = state[:, W * d : -1].reshape(B, W, d)[:, 1:]
        np.maximum(np.rint(state[:, -1]), 0, out=s.filled)

    def _attend(self, params: Params, s: BlockTape) -> Array:
        """Compute queries, keys and values, and return what the queries read, [n, d]."""
        t, n, d, W, QKV, b = s.since, s.since * s.B, self.hidden, self.window, params["QKV"], params["b"]
        new = np.dot(s.N1, QKV[d:].T, out=s.new).reshape(s.T, s.B, 2 * d).transpose(1, 0, 2)
        s.kept[:, W - 1 :] = new[:, :, :d]
        np.add(new[:, :, d:], b[d:], out=s.V[:, W - 1 :])
        Q = np.dot(s.N1[n:], QKV[:d].T, out=s.Q[n:])
        Q += b[:d]
        Q *= self._scale(Q)
        queries = Q.reshape(-1, s.B, d)
        if self.rotary:
            turn(s.kept[:, t:], s.turned[t:], s.K[:, t:], self.heads)
            turn(queries, s.turned[t + W - 1 :, None], queries, self.heads)
        bias = None if self.rotary else params["lags"][:, ::-1]
        return s.attention.forward(queries, s.K[:, t:], s.V[:, t:], bias, self._filled(s)).reshape(-1, d)

    def _scale(self, Q: Array) -> Any:
        """Return 1/√width, in Q's type."""
        return Q.dtype.type((self.hidden // self.heads) ** -0.5)

    def _filled(self, s: BlockTape) -> Array:
        """Return how many of the W − 1 slots before tick `since` exist, [B]."""
        before: Array = np.minimum(s.filled + s.since, self.window - 1)
        return before

    def state_after(self, tape: BlockTape, steps: int) -> Array:
        """Return the ring after `steps` steps of the last forward: [B, state_size], new."""
        s, W, d = tape, self.window, self.hidden
        state = np.empty((s.B, self.state_size), s.V.dtype)
        state[:, : W * d].reshape(s.B, W, d)[...] = s.kept[:, steps - 1 : steps - 1 + W]
        state[:, W * d : -1].reshape(s.B, W, d)[...] = s.V[:, steps - 1 : steps - 1 + W]
        np.minimum(s.filled + steps, W, out=state[:, -1])
        return state

    def backward(
        self, params: Params, tape: BlockTape, dH: Array, dparams: Params, need_dX: bool
    ) -> tuple[Array, Array]:
        """Add the gradient to dparams: dH [T, B, d] → dX [T, B, I] and dstate [B, state_size], with need_dX.

        dH is not read before tape.since, where the outputs are constant.
        """
        s, n = tape, tape.since * tape.B
        dA = self._through_layers(params, s, dH[s.since :].reshape(-1, self.hidden), dparams)
        self._through_attention(params, s, dA, dparams, need_dX)
        standardize_backward(s.dU, s.N1, s.inverse[0], s.dU)
        s.dU[n:] += dA
        dparams["E"][...] += np.dot(s.dU.T, s.X)
        if not need_dX:
            return dH, dH
        return np.dot(s.dU, params["E"][:, :-1]).reshape(s.T, s.B, -1), self._dstate(s)

    def _through_layers(self, params: Params, s: BlockTape, dH: Array, dparams: Params) -> Array:
        """Go back from the outputs' gradient [n, d] to that by a, returned as a view of the tape."""
        n = s.since * s.B
        dR, M, dM = s.dA[n:], s.M[n:], s.dM[n:]
        standardize_backward(dH, s.H[n:], s.inverse[2, n:], dR)
        linear_backward(dR, M, dparams["M2"])
        np.dot(dR, params["M2"][:, :-1], out=dM)
        np.multiply(dM, M > 0, out=dM)
        linear_backward(dM, s.N2[n:], dparams["M1"])
        dN = np.dot(dM, params["M1"][:, :-1], out=s.dQ[n:])
        standardize_backward(dN, s.N2[n:], s.inverse[1, n:], dN)
        return np.add(dR, dN, out=dR)

    def _through_attention(self, params: Params, s: BlockTape, dA: Array, dparams: Params, ring: bool) -> None:
        """Go back from the gradient by a [n, d] to those by norm(u), in s.dU, and by keys and values, in s.dK and s.dV.

        ring: also by those before the window; without them, most of the work is left out.
        """
        t, n, d, W, QKV, dQKV = s.since, s.since * s.B, self.hidden, self.window, params["QKV"], dparams["QKV"]
        dO, dQ = np.dot(dA, params["O"], out=s.dU[n:]), s.dQ[n:]
        dparams["O"][...] += np.dot(dA.T, s.attention.O[t:].reshape(-1, d))
        wanted = 0 if ring else W - 1
        first = max(t, wanted)  # no query reads the slots before t
        s.dK[:, wanted:first], s.dV[:, wanted:first] = 0, 0
        dK, dV = s.dK[:, first:], s.dV[:, first:]
        queries, dqueries, dread = (part.reshape(-1, s.B, d) for part in (s.Q[n:], dQ, dO))
        dbias = None if self.rotary else dparams["lags"][:, ::-1]
        s.attention.backward(dread, queries, s.K[:, t:], s.V[:, t:], dqueries, dK, dV, dbias)
        if self.rotary:
            turn(dK, s.turned[first:].conj(), dK, self.heads)
            turn(dqueries, s.turned[t + W - 1 :, None].conj(), dqueries, self.heads)
        dQ *= self._scale(dQ)
        dQKV[:d] += np.dot(dQ.T, s.N1[n:])
        dnew = s.new.reshape(s.T, s.B, 2 * d)
        for part, rows in ((slice(0, d), s.dK), (slice(d, 2 * d), s.dV)):
            dnew[:, :, part] = rows[:, W - 1 :].transpose(1, 0, 2)
        dQKV[d:] += np.dot(s.new.T, s.N1)
        dparams["b"][:d] += np.add.reduce(dQ, axis=0)
        dparams["b"][d:] += np.add.reduce(s.new[:, d:], axis=0)
        np.dot(s.new, QKV[d:], out=s.dU)
        s.dU[n:] += np.dot(dQ, QKV[:d])

    def _dstate(self, s: BlockTape) -> Array:
        """Return the gradient by the ring before the window: 0 for its oldest slot, which no query reads, and count."""
        W, d = self.window, self.hidden
        dstate = np.zeros((s.B, self.state_size), s.V.dtype)
        dstate[:, : W * d].reshape(s.B, W, d)[:, 1:] = s.dK[:, : W - 1]
        dstate[:, W * d : -1].reshape(s.B, W, d)[:, 1:] = s.dV[:, : W - 1]
        return dstate

    def lag_norms(self, tape: BlockTape) -> Array:
        """Return the L2 norm of the loss gradient by each tick's u, [T], after a backward.

        A tick reaches later outputs by its key and value only, in one step however far back it is.
        """
        return step_norms(tape.dU.reshape(tape.T, tape.B, -1))

    def saturated(self, tape: BlockTape) -> float:
        """Return 1 − the mean entropy of the attention weights, each in units of an even attention's.

        0: all ticks of the window count equally; 1: one tick does, and the softmax passes almost no gradient.
        """
        return tape.attention.concentration(self._filled(tape))

    def saturated_units(self, tape: BlockTape) -> NDArray[np.bool_]:
        """Return none: the units share their weights."""
        return np.zeros((tape.B, self.hidden), np.bool_)

    def units(self, state: Array) -> Array:
        """Return the value of the newest tick, a view."""
        return state[:, -1 - self.hidden : -1]
