"""A readout of each stream's own, and its weights between the model's forecast, that readout and persistence.

Both are part of the stream's state and learn in every tick, so they differ by stream and do not wait for a version. The
readout is recursive least squares on the regressors of the mixture's widest readout. Its covariance would be n² numbers
a stream; instead the model knows the mean square matrix of the regressors, M = U·diag(D)·U', over all its streams, and
a stream only how much it has learned: with a share s = 1 - λ^labels, P = (I·(1 - s)/P₀ + M·s/(1 - λ))⁻¹. A stream that
starts in an old model therefore learns as fast as one of a new model. The weights are ML-Poly's, as in `mixture`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.answers.mixture import FORGET, LARGEST_FORECAST, Mixture, merits
from model.answers.tasks import TARGET_CLIP
from model.bounds import Bound, clip
from model.cells.contract import Params
from model.parameters import Array
from model.spec import ModelSpec

FORGETTING = 0.9995  # λ of the readout
START = 0.01  # P₀
MOST_REGRESSORS = 192  # with more, the readout sees neither the hidden state nor other channels
LARGEST_WEIGHT = 64.0  # of a regressor; a step beyond is not taken
LARGEST_GAIN = 1.0  # |g| ≤ √P₀/(2√λ), 0.05
FIRST_SHARE = 1e-3  # of the model's forecast, beside regrets: the answer before the first label
EXPERTS = 3  # the model, the own readout, persistence
LARGEST_REGRET = 2 * 24.0 * 32.0  # of one label


class Parts(NamedTuple):
    """Views of the rows' parts, B rows."""

    readout: Array  # [B, K, n]
    gain: Array  # [B, K, n] of the last tick
    given: Array  # [B, 2, K] forecasts of the last tick: the model's, the own readout's
    scale: Array  # [B, K] of the last tick; 0 before the first
    share: Array  # [B, K]
    regret: Array  # [B, EXPERTS]
    squares: Array  # [B, EXPERTS]
    largest: Array  # [B, 1]


class Look(NamedTuple):
    """Of one tick."""

    gain: Array  # [B, K, n]
    given: Array  # [B, 2, K], as in `Parts`
    answer: Array  # [B, K]


class Own:
    """Settings and layout. The values live in a part of a stream's state row, which starts as zeros."""

    def __init__(self, spec: ModelSpec, mixture: Mixture) -> None:
        self.targets = K = len(spec.targets)
        sizes = [base.shape[1] + mixture.columns.every for base in mixture.bases.values()]
        self.source = next((i for i, n in enumerate(sizes) if n <= MOST_REGRESSORS), len(sizes) - 1)
        self.base = list(mixture.bases.values())[self.source]
        self.n = n = sizes[self.source]
        pairs = np.array(spec.label_range, np.float32).reshape(-1, 2)
        self.range = np.broadcast_to(pairs, (K, 2)).T if spec.label_range else None  # [2, K] low, high
        most = LARGEST_REGRET**2 / (1 - FORGET)
        self.bounds = (
            Bound("a weight of the own readout", K * n, -LARGEST_WEIGHT, LARGEST_WEIGHT),
            Bound("a gain of the own readout", K * n, -LARGEST_GAIN, LARGEST_GAIN),
            Bound("a last forecast", 2 * K, -LARGEST_FORECAST, LARGEST_FORECAST),
            Bound("a last scale", K, 0, 3e15),
            Bound("the share of what was learned", K, 0, 1),
            Bound("a regret", EXPERTS, -LARGEST_REGRET / (1 - FORGET), LARGEST_REGRET / (1 - FORGET)),
            Bound("a squared regret", EXPERTS, 0, most),
            Bound("the largest squared regret", 1, 0, most),
        )
        self.size = sum(bound.size for bound in self.bounds)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parameters: U and D of each target's regressors."""
        return {"own_axes": (self.targets, self.n, self.n), "own_squares": (self.targets, self.n)}

    def init_params(self, params: Params) -> None:
        """Write the values before the first label: nothing is known of the regressors."""
        params["own_axes"][...] = np.eye(self.n)

    def parts(self, row: Array) -> Parts:
        """Return views of the parts of rows [B, size]."""
        B, K, n = len(row), self.targets, self.n
        ends = np.cumsum([bound.size for bound in self.bounds])[:-1]
        readout, gain, given, *others = np.split(row, ends, axis=1)
        return Parts(readout.reshape(B, K, n), gain.reshape(B, K, n), given.reshape(B, 2, K), *others)

    def label(self, row: Array, x: Array, before: Array, observed: NDArray[np.bool_] | None) -> tuple[Array, Array]:
        """Return scaled labels y [B, K] of the last tick, and which are known, bool [B, K].

        x, before: [B, K] values of this tick and the last, missing ones replaced; observed: bool [B, K]; None: all.
        With one value outside `label_range`, none is known.
        """
        scale = self.parts(row).scale
        known = scale > 0
        if observed is not None:
            known &= observed
        if self.range is not None:
            beyond = np.maximum(self.range[0] - np.minimum(x, before), np.maximum(x, before) - self.range[1])
            known &= beyond.max(axis=1, keepdims=True) <= 0
        y = clip((x - before) / np.where(known, scale, np.float32(1)), -TARGET_CLIP, TARGET_CLIP)
        return y.astype(np.float32, copy=False), known

    def learn(self, row: Array, y: Array, known: NDArray[np.bool_]) -> None:
        """Learn from the labels of the last tick, whose gain, forecasts and scale are in the rows, modified."""
        at = self.parts(row)
        rate = np.float32(1 - FORGETTING)
        error = np.where(known, y - at.given[:, 1], np.float32(0))
        moved = at.readout + at.gain * error[:, :, None]
        at.readout[...] = np.where(np.abs(moved) <= LARGEST_WEIGHT, moved, at.readout)
        at.share[...] += np.where(known, rate * (1 - at.share), np.float32(0))
        self._mix(at, y, known)

    def _mix(self, at: Parts, y: Array, known: NDArray[np.bool_]) -> None:
        """Update the weights' state with labels, whose regrets are averaged over the targets."""
        each = np.concatenate([at.given, np.zeros_like(at.given[:, :1])], axis=1)  # [B, EXPERTS, K]
        answer = (self.weights(at)[:, :, None] * each).sum(axis=1)
        gained = np.where(known, 2 * (answer - y), np.float32(0))[:, None] * (answer[:, None] - each)
        count = np.maximum(known.sum(axis=1, dtype=np.float32), np.float32(1))
        gained = gained.sum(axis=2) / count[:, None]
        keep = np.where(known.any(axis=1), np.float32(FORGET), np.float32(1))[:, None]
        square = gained * gained
        at.regret[...] = keep * at.regret + gained
        at.squares[...] = keep * at.squares + square
        at.largest[...] = np.maximum(keep * at.largest, square.max(axis=1, keepdims=True))

    def weights(self, at: Parts) -> Array:
        """Return the weight of each expert, [B, EXPERTS]; their sum is 1. Before the first label: the model's."""
        share = merits(at.regret, at.squares, at.largest)
        share[:, 0] += np.float32(FIRST_SHARE)
        out: Array = share / share.sum(axis=1, keepdims=True)
        return out

    def look(self, params: Params, row: Array, z: Array, model: Array) -> Look:
        """Return what a tick gives. z: [B, K, n] its regressors; model: [B, K] the model's scaled forecast."""
        at = self.parts(row)
        own = (z * at.readout).sum(axis=2)
        given = np.stack([model, own], axis=1)
        limited = clip(given, -LARGEST_FORECAST, LARGEST_FORECAST)
        return Look(self.gains(params, at.share, z), limited, self.mix(row, model, limited[:, 1]))

    def mix(self, row: Array, model: Array, own: Array) -> Array:
        """Return the answer [B, K] of the model's forecast and the own readout's, [B, K] each."""
        weights = self.weights(self.parts(row))
        out: Array = weights[:, :1] * model + weights[:, 1:2] * own
        return out

    def gains(self, params: Params, share: Array, z: Array) -> Array:
        """Return the gains [B, K, n] of regressors z [B, K, n]: P·z/(λ + z'·P·z)."""
        axes = params["own_axes"]
        along = np.matmul(z.transpose(1, 0, 2), axes)  # [K, B, n]
        start = (1 - share.T[:, :, None]) * np.float32(1 / START)
        learned = share.T[:, :, None] * np.float32(1 / (1 - FORGETTING))
        precision = start + learned * np.maximum(params["own_squares"], 0)[:, None]
        part = along / np.maximum(precision, np.float32(1 / START))
        energy = (along * part).sum(axis=2, keepdims=True) + np.float32(FORGETTING)
        gain = np.matmul(part, axes.transpose(0, 2, 1)) / energy
        limited: Array = clip(gain.transpose(1, 0, 2), -LARGEST_GAIN, LARGEST_GAIN)
        return limited

    def keep(self, row: Array, look: Look, scale: Array) -> None:
        """Store in the rows, modified, what their next label needs. scale: [B, K]."""
        at = self.parts(row)
        at.gain[...], at.given[...], at.scale[...] = look.gain, look.given, scale
