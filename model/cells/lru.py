"""Linear recurrent unit: a diagonal complex recurrence (Orvieto et al. 2023, arXiv:2303.06349, eq. 3–7) with a ReLU
readout of its state, as in recurrent trace units (Elelimy et al. 2024, arXiv:2409.01449).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.bounds import Bound, clip
from model.cells.contract import FLOOR, MAX_SUM, Params
from model.cells.kernels import ProductScratch, accumulate_products, flush, step_norms, stretches
from model.parameters import Array

# Every radius is at most exp(−2⁻²⁰), about 1 − 1e-6, so that a state stays bounded whatever is learned.
LEAST_DECAY = 2.0**-20
SLOWEST, FASTEST = -40.0, 2.0  # of ν: a unit forgets at most all but 6e-4 in a tick, so that no product is subnormal
RING = 0.9, 0.999  # radii of the first weights
# Largest phase of the first weights, radians per tick. With all of a turn, rtrl had 5 % (ETTh2) and 20 % (taxi) less
# squared error than with phases up to π/10, periods of 20 ticks and more.
PHASES = 2 * np.pi


class Rates(NamedTuple):
    """The recurrence of each unit, [H] each."""

    decay: Array  # exp(ν)
    radius: Array
    real: Array  # of λ
    imaginary: Array
    gamma: Array  # √(1 − radius²)


def rates(params: Params) -> Rates:
    """Return λ = exp(−LEAST_DECAY − exp(ν) + iθ), and the γ with which noise as input gives a state of size 1."""
    dtype = params["nu"].dtype.type
    decay = np.exp(clip(params["nu"], dtype(SLOWEST), dtype(FASTEST)))
    rate = decay + dtype(LEAST_DECAY)
    radius = np.exp(-rate)
    real, imaginary = radius * np.cos(params["theta"]), radius * np.sin(params["theta"])
    return Rates(decay, radius, real, imaginary, np.sqrt(-np.expm1(-2 * rate)))


class LRUTape:
    """Buffers of one window, feature-major: rows are features, the batch is innermost. States are rows re|im."""

    def __init__(self, cell: LRU, T: int, B: int, dtype: type[np.floating[Any]]) -> None:
        H, inputs = cell.hidden, cell.inputs
        self.T, self.B, self.zero = T, B, np.zeros((), dtype)
        self.rates: Rates  # of the last forward
        self.Z = np.zeros((T + 1, 2 * H + inputs + 1, B), dtype)  # rows [state after the step; x_t; 1]
        self.Z[:, -1] = 1
        self.G = np.empty((2 * H, inputs + 1), dtype)  # γ·B, and FLOOR
        self.U = np.empty((T, 2 * H, B), dtype)
        self.Y = np.empty((T, H, B), dtype)
        self.turn = np.empty((3, 2, H, B), dtype)  # factors of a step: re λ, ∓im λ forward, ±im λ backward
        self.stay = self.turn[0].reshape(2 * H, B)
        self.dY = np.empty((T, H, B), dtype)
        self.D = np.empty((T + 1, 2 * H, B), dtype)  # total gradient by the state, the start state first
        self.dX, self.dXu = (np.empty((T, inputs, B), dtype) for _ in range(2))
        self.dG, self.dW = (np.empty(shape, dtype) for shape in ((2 * H, inputs), (H, 2 * H + inputs + 1)))
        self.sums_G = ProductScratch(2 * H, inputs, T, B, dtype)
        self.sums_W = ProductScratch(H, 2 * H + inputs + 1, T, B, dtype)
        self.tmp, self.crossed = (np.empty((2 * H, B), dtype) for _ in range(2))
        # Slicing inside the loop would cost as much as the arithmetic.
        S, D = self.Z[:, : 2 * H], self.D
        self.forward_views = [(S[t], S[t, :H], S[t, H:], self.U[t], S[t + 1]) for t in range(T)]
        views = [(D[t + 1], D[t + 1, :H], D[t + 1, H:], D[t]) for t in range(T)]
        self.backward_views = [(ticks[-1], [views[t] for t in ticks]) for ticks in stretches(T)]


@dataclass(frozen=True)
class LRU:
    """s' = λ⊙s + γ⊙(B x), y = relu(W·[Re s'; Im s'; x; 1]); output y. State row: [Re s; Im s].

    Parameters: nu and theta [H], λ = exp(−exp(ν) + iθ) but for LEAST_DECAY; B [2H, I], rows re|im; W [H, 2H+I+1].
    γ = √(1 − |λ|²) is computed from λ, not learned: a learned one would only repeat the scale of B's rows, and a state
    stays of size 1 while its radius is learned. gain: factor on the first radii.
    """

    inputs: int
    hidden: int
    gain: float

    @property
    def state_size(self) -> int:
        """2H: real and imaginary parts."""
        return 2 * self.hidden

    @property
    def reach(self) -> slice:
        """The whole state."""
        return slice(0, 2 * self.hidden)

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """Range of the state: |s| ≤ max|B x|·√((1+r)/(1−r)), at most 1,449·max|B x| for the largest radius."""
        return Bound("a real part", self.hidden, -MAX_SUM, MAX_SUM), Bound(
            "an imaginary part", self.hidden, -MAX_SUM, MAX_SUM
        )

    @property
    def trace_size(self) -> int:
        """2H·(I+2), as re|im × parameters × units: ∂s/∂B by its real part, ∂s/∂ν and ∂s/∂θ, each unit by its own."""
        return 2 * self.hidden * (self.inputs + 2)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Logarithms of decay, phases, input weights, and the readout with its biases."""
        H, inputs = self.hidden, self.inputs
        return {"nu": (H,), "theta": (H,), "B": (2 * H, inputs), "W": (H, 2 * H + inputs + 1)}

    def init_params(self, params: Params, rng: np.random.Generator) -> None:
        """Draw radii (times the gain, below 1) and phases uniformly, weights normal; biases are 0."""
        H, inputs = self.hidden, self.inputs
        with np.errstate(divide="ignore"):  # a gain of 0
            rate = -np.log(np.minimum(self.gain * rng.uniform(*RING, H), 1.0))
        params["nu"][...] = np.log(np.clip(rate - LEAST_DECAY, LEAST_DECAY, np.exp(FASTEST)))
        params["theta"][...] = rng.uniform(0, PHASES, H)
        params["B"][...] = rng.standard_normal((2 * H, inputs)) / np.sqrt(2 * inputs)
        params["W"][:, : 2 * H] = rng.standard_normal((H, 2 * H)) / np.sqrt(H)
        params["W"][:, 2 * H : -1] = rng.standard_normal((H, inputs)) / np.sqrt(inputs)
        params["W"][:, -1] = 0

    def workspace(self, T: int, B: int, dtype: type[np.floating[Any]]) -> LRUTape:
        """Return new buffers for windows of T ticks and B rows."""
        return LRUTape(self, T, B, dtype)

    def forward(self, params: Params, state: Array, X: Array, tape: LRUTape) -> Array:
        """Run a window: state [B, 2H], X [T, B, I] → y [T, B, H], a view of the tape."""
        H, s = self.hidden, tape
        s.rates = rates(params)
        _, _, real, imaginary, gamma = (part[:, None] for part in s.rates)
        np.multiply(params["B"].reshape(2, H, -1), gamma, out=s.G.reshape(2, H, -1)[..., :-1])
        s.G[:, -1] = FLOOR
        s.turn[0] = real
        s.turn[1, 1] = s.turn[2, 0] = imaginary
        s.turn[1, 0] = s.turn[2, 1] = -imaginary
        s.Z[0, : 2 * H] = state.T
        s.Z[1:, 2 * H : -1] = X.transpose(0, 2, 1)
        np.matmul(s.G, s.Z[1:, 2 * H :], out=s.U)
        multiply, add, tmp, crossed = np.multiply, np.add, s.tmp, s.crossed
        stay, (up, down), upper, lower = s.stay, s.turn[1], crossed[:H], crossed[H:]
        for whole, real, imaginary, u, after in s.forward_views:
            multiply(stay, whole, out=tmp)
            multiply(up, imaginary, out=upper)
            multiply(down, real, out=lower)
            add(tmp, crossed, out=tmp)
            add(tmp, u, out=after)
        np.matmul(params["W"], s.Z[1:], out=s.Y)
        np.maximum(s.Y, s.zero, out=s.Y)
        return s.Y.transpose(0, 2, 1)

    def state_after(self, tape: LRUTape, steps: int) -> Array:
        """Return the state after `steps` steps of the last forward: [B, 2H], new."""
        after: Array = tape.Z[steps, : 2 * self.hidden].T.copy()
        return after

    def backward(self, params: Params, tape: LRUTape, dH: Array, dparams: Params, need_dX: bool) -> tuple[Array, Array]:
        """Add the gradient to dparams: dH [T, B, H] → dX [T, B, I] and dstate [B, 2H]."""
        H, s, W = self.hidden, tape, params["W"]
        np.multiply(dH.transpose(0, 2, 1), s.Y > 0, out=s.dY)
        np.matmul(W[:, : 2 * H].T, s.dY, out=s.D[1:])
        s.D[0] = 0
        multiply, add, tmp, crossed = np.multiply, np.add, s.tmp, s.crossed
        stay, (up, down), upper, lower = s.stay, s.turn[2], crossed[:H], crossed[H:]
        for t, views in s.backward_views:
            for whole, real, imaginary, before in views:
                multiply(stay, whole, out=tmp)
                multiply(up, imaginary, out=upper)
                multiply(down, real, out=lower)
                add(tmp, crossed, out=tmp)
                add(before, tmp, out=before)
            if t and flush(s.D[t], scratch=tmp) and not s.D[1:t].any():
                break
        accumulate_products(dparams["W"], s.dY, s.Z[1:], s.sums_W)
        s.dG[...] = 0
        accumulate_products(s.dG, s.D[1:], s.Z[1:, 2 * H : -1], s.sums_G)
        self._by_recurrence(params, s, dparams)
        if need_dX:
            np.matmul(W[:, 2 * H : -1].T, s.dY, out=s.dX)
            np.matmul(s.G[:, :-1].T, s.D[1:], out=s.dXu)
            s.dX += s.dXu
        return s.dX.transpose(0, 2, 1), s.D[0].T.copy()

    def _by_recurrence(self, params: Params, s: LRUTape, dparams: Params) -> None:
        """Add the gradient by B, ν and θ. s.dG: gradient by γ·B; s.D: by the states."""
        H, (decay, radius, real, imaginary, gamma) = self.hidden, s.rates
        D, S = s.D[1:].reshape(s.T, 2, H, s.B), s.Z[:-1, : 2 * H].reshape(s.T, 2, H, s.B)
        by_real = np.einsum("tghb,tghb->h", D, S)
        by_imaginary = np.einsum("thb,thb->h", D[:, 1], S[:, 0]) - np.einsum("thb,thb->h", D[:, 0], S[:, 1])
        dG = s.dG.reshape(2, H, -1)
        by_gamma = np.einsum("ghi,ghi->h", params["B"].reshape(dG.shape), dG)
        dparams["B"].reshape(dG.shape)[...] += dG * gamma[:, None]
        # d radius/dν = −radius·decay, dγ/d radius = −radius/γ
        dparams["nu"][...] += decay * (radius * radius / gamma * by_gamma - (by_real * real + by_imaginary * imaginary))
        dparams["theta"][...] += by_imaginary * real - by_real * imaginary

    def advance_trace(self, tape: LRUTape, trace: Array, steps: int) -> Array:
        """Return the derivatives of the state after `steps` steps of the last forward, [B, trace_size], new.

        trace: those of the start state. e' = λ·e + ∂s'/∂(parameter), where the state before is held fixed.
        """
        B, H, s = len(trace), self.hidden, tape
        after = trace.reshape(B, 2, self.inputs + 2, H).copy()
        real, imaginary, floor = after[:, 0], after[:, 1], trace.dtype.type(FLOOR)
        decay, radius, a, b, gamma = s.rates
        by_gamma = decay * np.square(radius / gamma)  # (dγ/dν)/γ
        for t in range(steps):
            u = s.U[t, :, :B].T.reshape(B, 2, H)
            turned = s.Z[t + 1, : 2 * H, :B].T.reshape(B, 2, H) - u  # λ·s
            crossed = b * real
            real *= a
            real -= b * imaginary
            imaginary *= a
            imaginary += crossed
            real[:, :-2] += (s.Z[t + 1, 2 * H : -1, :B].T + floor)[..., None] * gamma
            after[:, :, -2] += by_gamma * u - decay * turned
            real[:, -1] -= turned[:, 1]
            imaginary[:, -1] += turned[:, 0]
        return after.reshape(B, -1)

    def trace_gradient(self, trace: Array, dstate: Array, dparams: Params) -> None:
        """Add dstate·∂s/∂(parameters) to dparams, summed over rows. trace: [B, trace_size], dstate: [B, 2H]."""
        B, H = len(trace), self.hidden
        e, d = trace.reshape(B, 2, self.inputs + 2, H), dstate.reshape(B, 2, H)
        # Of e = ∂s/∂(real parameter) the gradient is Re(conj(ds)·e). By the imaginary part of B, the derivative is i·e.
        by = np.einsum("bgih,bgh->ih", e, d)
        by_imaginary = np.einsum("bih,bh->ih", e[:, 0, :-2], d[:, 1]) - np.einsum("bih,bh->ih", e[:, 1, :-2], d[:, 0])
        dparams["B"][:H] += by[:-2].T
        dparams["B"][H:] += by_imaginary.T
        dparams["nu"][...] += by[-2]
        dparams["theta"][...] += by[-1]

    def lag_norms(self, tape: LRUTape) -> Array:
        """Return the L2 norm of the loss gradient by each state, [T], after a backward."""
        return step_norms(tape.D[1:])

    def saturated(self, tape: LRUTape) -> float:
        """Return the fraction of units whose radius is outside 0.05..0.999: they forget at once, or nearly never.

        Like a saturated gate, they pass almost no gradient, here to ν: it is radius·exp(ν) times the radius's.
        """
        return float(np.mean((tape.rates.radius < 0.05) | (tape.rates.radius > 0.999)))

    def saturated_units(self, tape: LRUTape) -> NDArray[np.bool_]:
        """Return the units of the last step that `saturated` counts, [B, H]."""
        radius = tape.rates.radius
        return np.tile((radius < 0.05) | (radius > 0.999), (tape.B, 1))

    def units(self, state: Array) -> Array:
        """Return the magnitudes of the state's complex numbers."""
        size: Array = np.hypot(state[:, : self.hidden], state[:, self.hidden :])
        return size
