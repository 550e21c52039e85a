"""What a model's answers mean: the task makes answers of the readout's p, and targets for p of labels.

The one place that tells tasks apart. A new task is one class, its line in TASKS, and its answer as ONNX.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.answers import popart
from model.answers.losses import clipped_score
from model.cells.contract import Params
from model.parameters import Array, Weights
from model.spec import ModelSpec

# Targets beyond this many scales are clipped to it: one absurd label moves the weights by a bounded amount.
TARGET_CLIP = 8.0


class Task(Protocol):
    """Contract. p: what the readout gives, [.., O]; `target`: the task's own parameters, which are never trained."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of the task's parameters."""
        ...

    def init_params(self, target: Params) -> None:
        """Write first values into the given views."""
        ...

    def answer(self, target: Params, p: Array, last: Array, scale: Array) -> Array:
        """p [B, O] → y [B, O]. last [B, K]: values of the K forecast channels now; scale [B, H, K]: the scaler's."""
        ...

    def units(self, target: Params, scale: Array) -> Array:
        """[B, O]: the size of one unit of p in each answer, 1 where nothing is known of it yet."""
        ...

    def follow(self, weights: Weights, y: Array, known: NDArray[np.bool_]) -> None:
        """Take in labels that are about to be learned, in order: y [N, O], known [N, O]. May rescale the readout."""
        ...

    def targets(self, target: Params, y: Array, weight: Array, last: Array, scale: Array) -> tuple[Array, Array]:
        """Labels y [T, B, O] from outside → what p should be there, and each one's weight: 0 where nothing can be said.

        last [T, B, K], scale [T, B, H, K] as for `answer`.
        """
        ...

    def score(self, p: Array, y: Array, weight: Array) -> Array:
        """Of each row of targets y: 0 (best) to 1, [B]; what the gate compares. p, y, weight: [T, B, O]."""
        ...

    def translate(self, p: Array, theirs: Params, ours: Params) -> Array:
        """What other weights answer, in the units of ours: p [.., O] of a network whose parameters are `theirs`."""
        ...


@dataclass(frozen=True)
class Forecast:
    """y = present value + scale·p: future values of the channels; the labels are read off the stream (DESIGN R8)."""

    spec: ModelSpec

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """None: the scales are the stream's."""
        return {}

    def init_params(self, target: Params) -> None:
        """Nothing to write."""

    def answer(self, target: Params, p: Array, last: Array, scale: Array) -> Array:
        """[B, H·K]. A scale of 0 answers the present value."""
        y: Array = np.tile(last, (1, self.spec.horizon)) + scale.reshape(p.shape) * p
        return y

    def units(self, target: Params, scale: Array) -> Array:
        """The scaler's scales."""
        return np.where(scale > 0, scale, np.float32(1)).reshape(len(scale), -1)

    def follow(self, weights: Weights, y: Array, known: NDArray[np.bool_]) -> None:
        """Labels change nothing but the weights."""

    def targets(self, target: Params, y: Array, weight: Array, last: Array, scale: Array) -> tuple[Array, Array]:
        """(y − present value) / scale, clipped. y: values at steps 1..H; a tick without scale yet has no target."""
        scale = scale.reshape(y.shape)
        usable = (weight > 0) & (scale > 0)
        change = np.where(usable, y - np.tile(last, (1, 1, self.spec.horizon)), 0)
        Y = np.clip(change / np.where(usable, scale, 1), -TARGET_CLIP, TARGET_CLIP)
        return Y.astype(np.float32), np.where(usable, weight, np.float32(0))

    def score(self, p: Array, y: Array, weight: Array) -> Array:
        """Clipped square error in scaled units."""
        return clipped_score(p, y, weight)

    def translate(self, p: Array, theirs: Params, ours: Params) -> Array:
        """The units are the stream's: the same."""
        return p


@dataclass(frozen=True)
class Regress:
    """y = mean + scale·p: values that only labels give, in the running statistics of those labels (`popart`)."""

    spec: ModelSpec

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The labels' statistics, [O] each."""
        return popart.shapes(self.spec.outputs)

    def init_params(self, target: Params) -> None:
        """No label seen."""
        popart.init_params(target)

    def answer(self, target: Params, p: Array, last: Array, scale: Array) -> Array:
        """[B, O], in the labels' units."""
        y: Array = target["mean"] + target["scale"] * p
        return y

    def units(self, target: Params, scale: Array) -> Array:
        """The labels' running deviations."""
        known = np.where(target["scale"] > 0, target["scale"], np.float32(1))
        return np.tile(known, (len(scale), 1))

    def follow(self, weights: Weights, y: Array, known: NDArray[np.bool_]) -> None:
        """Statistics move, answers stay. With a frozen readout, both stay."""
        if "head" not in self.spec.freeze:
            popart.follow(weights.target, weights.head["W"], y, known)

    def targets(self, target: Params, y: Array, weight: Array, last: Array, scale: Array) -> tuple[Array, Array]:
        """(y − mean) / scale, clipped; 0 for labels that never moved."""
        known = (weight > 0) & (target["scale"] > 0)
        Y = np.where(known, y - target["mean"], 0) / np.where(known, target["scale"], 1)
        return np.clip(Y, -TARGET_CLIP, TARGET_CLIP).astype(np.float32), weight

    def score(self, p: Array, y: Array, weight: Array) -> Array:
        """Clipped square error in scaled units."""
        return clipped_score(p, y, weight)

    def translate(self, p: Array, theirs: Params, ours: Params) -> Array:
        """Through the labels' units: each version has its own statistics."""
        unit = np.where(ours["scale"] > 0, ours["scale"], np.float32(1))
        out: Array = (theirs["mean"] - ours["mean"] + theirs["scale"] * p) / unit
        return out


@dataclass(frozen=True)
class Classify:
    """y = softmax(p): a probability for each class. Labels are such probabilities, usually 1 for one class."""

    spec: ModelSpec

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """None."""
        return {}

    def init_params(self, target: Params) -> None:
        """Nothing to write."""

    def answer(self, target: Params, p: Array, last: Array, scale: Array) -> Array:
        """[B, O], rows sum to 1."""
        return softmax(p)

    def units(self, target: Params, scale: Array) -> Array:
        """1: a probability is what it is."""
        return np.ones((len(scale), self.spec.outputs), np.float32)

    def follow(self, weights: Weights, y: Array, known: NDArray[np.bool_]) -> None:
        """Nothing to follow."""

    def targets(self, target: Params, y: Array, weight: Array, last: Array, scale: Array) -> tuple[Array, Array]:
        """The probabilities themselves."""
        return np.where(weight > 0, y, np.float32(0)), weight

    def score(self, p: Array, y: Array, weight: Array) -> Array:
        """Half the Brier score (1950), ½·Σ(softmax(p) − y)², which is proper and in 0..1. Mean over a row's labelled
        positions, each with the weight that the loss gives it, class weight included."""
        brier = 0.5 * ((softmax(p) - y) ** 2).sum(axis=-1)
        position = weight.max(axis=-1) * (y * np.asarray(self.spec.class_weights, y.dtype)).sum(axis=-1)
        brier = np.where(np.isnan(brier), 1.0, brier)
        total: Array = np.asarray(np.sum(brier * position, axis=0, dtype=np.float64))
        return total / np.maximum(np.sum(position, axis=0, dtype=np.float64), 1e-12)

    def translate(self, p: Array, theirs: Params, ours: Params) -> Array:
        """Logits have no unit."""
        return p


def softmax(p: Array) -> Array:
    """exp(p) over its sum along the last axis; shifted first, so that nothing overflows."""
    exp = np.exp(p - p.max(axis=-1, keepdims=True))
    out: Array = exp / exp.sum(axis=-1, keepdims=True)
    return out


TASKS: dict[str, Callable[[ModelSpec], Task]] = {"forecast": Forecast, "regress": Regress, "classify": Classify}
