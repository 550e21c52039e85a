"""Losses in scaled units, with a weight per output that is 0 where there is no label.

`LOSSES` maps the spec's name to a loss. A loss reads p, M·O values of the readout, labels y and weights, [.., O], and
returns two new arrays: the loss of each output [.., O], and the derivative of their sum by p. The first O columns of p
are the forecasts (`points`); most losses have no other, those of `spreads` do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from model.answers.spreads import Gaussian, Pinball, StudentT
from model.bounds import clip
from model.parameters import Array
from model.spec import ModelSpec

OfPoints = Callable[[Array, Array, Array], tuple[Array, Array]]


class Loss(Protocol):
    """Contract of a loss."""

    @property
    def columns(self) -> int:
        """M, values of the readout for each output."""
        ...

    @property
    def starts(self) -> Sequence[float]:
        """What is added to the raw values of each of the M − 1 other blocks of columns (`spreads.positive`)."""
        ...

    def __call__(self, p: Array, y: Array, weight: Array) -> tuple[Array, Array]:
        """Return the loss of each output [.., O], and the derivative of their sum by p [.., M·O]."""
        ...

    def widths(self, p: Array, outputs: int) -> Array | None:
        """Return the half-widths below and above the forecasts of the spec's levels, [.., 2, levels, O].

        None with M = 1: no spread is forecast.
        """
        ...


@dataclass(frozen=True)
class Point:
    """A loss of forecasts alone, M = 1."""

    loss: OfPoints
    columns = 1
    starts = ()

    def __call__(self, p: Array, y: Array, weight: Array) -> tuple[Array, Array]:
        """Return the loss of each output and the derivative of their sum by p."""
        return self.loss(p, y, weight)

    def widths(self, p: Array, outputs: int) -> None:
        """Return None: no spread is forecast."""


def points(p: Array, outputs: int) -> Array:
    """Return the forecasts among the readout's values p [.., M·O], a view."""
    return p[..., :outputs]


def mse(p: Array, y: Array, weight: Array) -> tuple[Array, Array]:
    """Return ½·w·(p − y)² per output, and its derivative."""
    error = p - y
    dp = weight * error
    return 0.5 * dp * error, dp


def huber(delta: float) -> OfPoints:
    """Return the loss ½·w·e² for |e| = |p − y| ≤ delta, and w·delta·(|e| − ½·delta) beyond (Huber 1964, eq. 2.2)."""

    def loss(p: Array, y: Array, weight: Array) -> tuple[Array, Array]:
        error = p - y
        bounded = clip(error, -delta, delta)
        dp = weight * bounded
        return dp * (error - 0.5 * bounded), dp

    return loss


def cross_entropy(class_weights: Sequence[float]) -> OfPoints:
    """Return the softmax cross-entropy loss: p are logits, y the probabilities of the O classes, which sum to 1.

    A position is labelled as a whole or not at all: its weight is the largest of its outputs' weights, times its class
    weight Σ_k y_k·w_k. Output k's part of the loss is −weight·y_k·log softmax(p)_k.
    """

    def loss(p: Array, y: Array, weight: Array) -> tuple[Array, Array]:
        position = weight.max(axis=-1, keepdims=True) * (y * np.asarray(class_weights, y.dtype)).sum(-1, keepdims=True)
        shifted = p - p.max(axis=-1, keepdims=True)  # so that exp cannot overflow, and the largest is 1
        exp = np.exp(shifted)
        total = exp.sum(axis=-1, keepdims=True)
        return -position * y * (shifted - np.log(total)), position * (exp / total - y)

    return loss


LOSSES: dict[str, Callable[[ModelSpec], Loss]] = {
    "mse": lambda spec: Point(mse),
    "huber": lambda spec: Point(huber(spec.huber_delta)),
    "cross_entropy": lambda spec: Point(cross_entropy(spec.class_weights)),
    "pinball": lambda spec: Pinball(spec.intervals),
    "gaussian": lambda spec: Gaussian(spec.intervals),
    "student_t": lambda spec: StudentT(spec.intervals, spec.degrees),
}


def clipped_score(p: Array, y: Array, weight: Array, limit: float = 4.0) -> Array:
    """Return each row's mean squared error over labelled outputs, [B]; each clipped to `limit`, then divided by it.

    p, y, weight: [T, B, O]. The gate compares these scores, 0..1; the bound keeps one absurd label from deciding. NaN
    counts as 1.
    """
    square = np.minimum((p - y) ** 2, limit) / limit
    square = np.where(np.isnan(square), 1.0, square)
    total: Array = np.asarray(np.sum(square * weight, axis=(0, 2), dtype=np.float64))
    return total / np.maximum(np.sum(weight, axis=(0, 2), dtype=np.float64), 1e-12)
