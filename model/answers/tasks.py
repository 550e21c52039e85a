"""Tasks: a task turns the readout's p into answers, and labels into targets for p.

The only place that distinguishes tasks. A new task is one class, its line in TASKS, and its answer as ONNX.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.answers import popart
from model.answers.losses import LOSSES, clipped_score
from model.answers.spreads import rescale
from model.bounds import clip
from model.cells.contract import Params
from model.parameters import Array, Weights
from model.spec import ModelSpec

# Targets are clipped to this many scales, so that one absurd label moves the weights by a bounded amount.
TARGET_CLIP = 8.0

Places = tuple[NDArray[np.intp], ...]  # indices, one array per axis, as `np.nonzero` returns them


class Task(Protocol):
    """Contract. p: the readout's forecasts, [.., O], without columns of a spread (`losses.points`); target: the task's
    own parameters, which are never trained."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name and shape of the task's parameters."""
        ...

    def init_params(self, target: Params) -> None:
        """Write initial values into the given views."""
        ...

    def answer(self, target: Params, p: Array, last: Array, scale: Array) -> Array:
        """Return answers y [B, O] for p [B, O].

        last: [B, K], present values of the K forecast channels; scale: [B, H, K], the scaler's.
        """
        ...

    def unit(self, target: Params, scale: Array) -> Array:
        """Return the size of one unit of p in each answer, [B, O]; 0 where it is not known yet."""
        ...

    def units(self, target: Params, scale: Array) -> Array:
        """Return `unit`, but 1 where it is not known yet."""
        ...

    def follow(self, weights: Weights, y: Array, known: NDArray[np.bool_]) -> None:
        """Update the task's statistics with labels about to be learned, y and known [N, O]; may rescale the readout."""
        ...

    def targets(self, target: Params, y: Array, weight: Array, last: Array, scale: Array) -> tuple[Array, Array]:
        """Return targets for p and their weights for labels y, all [T, B, O]; the weight is 0 where p has no target.

        last: [T, B, K], scale: [T, B, H, K] as for `answer`.
        """
        ...

    def score(self, p: Array, y: Array, weight: Array) -> Array:
        """Return each row's score, 0 (best) to 1, [B], which the gate compares. p, targets y, weight: [T, B, O]."""
        ...

    def residuals(self, p: Array, y: Array, at: Places) -> tuple[Array, Array]:
        """Return the errors of p, and of p = 0, at the places `at` of p and targets y, [T, B, O]; both (N,), new."""
        ...

    def translate(self, p: Array, theirs: Params, ours: Params) -> Array:
        """Return p [.., O] of a network with task parameters `theirs` in the units of `ours`."""
        ...


@dataclass(frozen=True)
class Forecast:
    """y = present value + scale·p: future values of the channels. Labels come from the stream itself (DESIGN R8)."""

    spec: ModelSpec

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """No parameters: the scales belong to the stream."""
        return {}

    def init_params(self, target: Params) -> None:
        """Do nothing."""

    def answer(self, target: Params, p: Array, last: Array, scale: Array) -> Array:
        """Return forecasts [B, H·K]; where the scale is 0, the present value."""
        y: Array = np.tile(last, (1, self.spec.horizon)) + scale.reshape(p.shape) * p
        return y

    def unit(self, target: Params, scale: Array) -> Array:
        """Return the scaler's scales."""
        return scale.reshape(len(scale), -1)

    def units(self, target: Params, scale: Array) -> Array:
        """Return the scaler's scales."""
        return np.where(scale > 0, scale, np.float32(1)).reshape(len(scale), -1)

    def follow(self, weights: Weights, y: Array, known: NDArray[np.bool_]) -> None:
        """Do nothing: there are no statistics of labels."""

    def targets(self, target: Params, y: Array, weight: Array, last: Array, scale: Array) -> tuple[Array, Array]:
        """Return (y − present value) / scale, clipped. y: values at steps 1..H; without a scale there is no target."""
        scale = scale.reshape(y.shape)
        usable = (weight > 0) & (scale > 0)
        change = np.where(usable, y - np.tile(last, (1, 1, self.spec.horizon)), 0)
        Y = clip(change / np.where(usable, scale, 1), -TARGET_CLIP, TARGET_CLIP)
        return Y.astype(np.float32), np.where(usable, weight, np.float32(0))

    def score(self, p: Array, y: Array, weight: Array) -> Array:
        """Return the clipped square error in scaled units."""
        return clipped_score(p, y, weight)

    def residuals(self, p: Array, y: Array, at: Places) -> tuple[Array, Array]:
        """Return the differences from the targets, in scaled units."""
        return p[at] - y[at], -y[at]

    def translate(self, p: Array, theirs: Params, ours: Params) -> Array:
        """Return p: the units belong to the stream, so both are the same."""
        return p


@dataclass(frozen=True)
class Regress:
    """y = mean + scale·p: values known only from labels, in units of those labels' running statistics (`popart`)."""

    spec: ModelSpec

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the labels' statistics, [O] each."""
        return popart.shapes(self.spec.outputs)

    def init_params(self, target: Params) -> None:
        """Write the statistics before the first label."""
        popart.init_params(target)

    def answer(self, target: Params, p: Array, last: Array, scale: Array) -> Array:
        """Return answers [B, O] in the labels' units."""
        y: Array = target["mean"] + target["scale"] * p
        return y

    def unit(self, target: Params, scale: Array) -> Array:
        """Return the labels' running deviations."""
        return np.tile(target["scale"], (len(scale), 1))

    def units(self, target: Params, scale: Array) -> Array:
        """Return the labels' running deviations."""
        known = np.where(target["scale"] > 0, target["scale"], np.float32(1))
        return np.tile(known, (len(scale), 1))

    def follow(self, weights: Weights, y: Array, known: NDArray[np.bool_]) -> None:
        """Update the statistics; answers stay the same, spreads nearly. With a frozen readout, do nothing."""
        if "head" in self.spec.freeze:
            return
        W, n = weights.head["W"], self.spec.outputs
        growth = popart.follow(weights.target, W[:n], y, known)
        if len(W) > n:
            rescale(W[n:], LOSSES[self.spec.loss](self.spec).starts, growth)

    def targets(self, target: Params, y: Array, weight: Array, last: Array, scale: Array) -> tuple[Array, Array]:
        """Return (y − mean) / scale, clipped; 0 while all labels were equal."""
        known = (weight > 0) & (target["scale"] > 0)
        Y = np.where(known, y - target["mean"], 0) / np.where(known, target["scale"], 1)
        return clip(Y, -TARGET_CLIP, TARGET_CLIP).astype(np.float32), weight

    def score(self, p: Array, y: Array, weight: Array) -> Array:
        """Return the clipped square error in scaled units."""
        return clipped_score(p, y, weight)

    def residuals(self, p: Array, y: Array, at: Places) -> tuple[Array, Array]:
        """Return the differences from the targets, in scaled units."""
        return p[at] - y[at], -y[at]

    def translate(self, p: Array, theirs: Params, ours: Params) -> Array:
        """Convert through the labels' units: each version has its own statistics."""
        unit = np.where(ours["scale"] > 0, ours["scale"], np.float32(1))
        out: Array = (theirs["mean"] - ours["mean"] + theirs["scale"] * p) / unit
        return out


@dataclass(frozen=True)
class Classify:
    """y = softmax(p): a probability per class. Labels are probabilities too, usually 1 for one class."""

    spec: ModelSpec

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """No parameters."""
        return {}

    def init_params(self, target: Params) -> None:
        """Do nothing."""

    def answer(self, target: Params, p: Array, last: Array, scale: Array) -> Array:
        """Return probabilities [B, O]; each row sums to 1."""
        return softmax(p)

    def unit(self, target: Params, scale: Array) -> Array:
        """Return ones: a probability has no unit."""
        return np.ones((len(scale), self.spec.outputs), np.float32)

    units = unit

    def follow(self, weights: Weights, y: Array, known: NDArray[np.bool_]) -> None:
        """Do nothing: there are no statistics."""

    def targets(self, target: Params, y: Array, weight: Array, last: Array, scale: Array) -> tuple[Array, Array]:
        """Return the probabilities themselves."""
        return np.where(weight > 0, y, np.float32(0)), weight

    def score(self, p: Array, y: Array, weight: Array) -> Array:
        """Return half the Brier score (Brier 1950), ½·Σ(softmax(p) − y)², a proper score in 0..1.

        Mean over a row's labelled positions with the loss's weights, class weights included.
        """
        brier = 0.5 * ((softmax(p) - y) ** 2).sum(axis=-1)
        position = weight.max(axis=-1) * (y * np.asarray(self.spec.class_weights, y.dtype)).sum(axis=-1)
        brier = np.where(np.isnan(brier), 1.0, brier)
        total: Array = np.asarray(np.sum(brier * position, axis=0, dtype=np.float64))
        return total / np.maximum(np.sum(position, axis=0, dtype=np.float64), 1e-12)

    def residuals(self, p: Array, y: Array, at: Places) -> tuple[Array, Array]:
        """Return the differences of probabilities; those of p = 0 are equal."""
        return (softmax(p) - y)[at], 1 / self.spec.outputs - y[at]

    def translate(self, p: Array, theirs: Params, ours: Params) -> Array:
        """Return p: logits have no unit."""
        return p


def softmax(p: Array) -> Array:
    """Return exp(p) divided by its sum along the last axis, shifted first so that nothing overflows."""
    exp = np.exp(p - p.max(axis=-1, keepdims=True))
    out: Array = exp / exp.sum(axis=-1, keepdims=True)
    return out


TASKS: dict[str, Callable[[ModelSpec], Task]] = {"forecast": Forecast, "regress": Regress, "classify": Classify}
