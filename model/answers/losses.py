"""Losses in scaled units, with a weight per output that is 0 where there is no label.

`LOSSES` maps the spec's name to a loss. A loss reads forecasts p, labels y and weights, all [.., O], and returns two
new arrays of that shape: the loss of each output, and the derivative of their sum by p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from model.bounds import clip
from model.parameters import Array
from model.spec import ModelSpec

Loss = Callable[[Array, Array, Array], tuple[Array, Array]]


def mse(p: Array, y: Array, weight: Array) -> tuple[Array, Array]:
    """Return ½·w·(p − y)² per output, and its derivative."""
    error = p - y
    dp = weight * error
    return 0.5 * dp * error, dp


def huber(delta: float) -> Loss:
    """Return the loss ½·w·e² for |e| = |p − y| ≤ delta, and w·delta·(|e| − ½·delta) beyond (Huber 1964, eq. 2.2)."""

    def loss(p: Array, y: Array, weight: Array) -> tuple[Array, Array]:
        error = p - y
        bounded = clip(error, -delta, delta)
        dp = weight * bounded
        return dp * (error - 0.5 * bounded), dp

    return loss


def cross_entropy(class_weights: Sequence[float]) -> Loss:
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
    "mse": lambda spec: mse,
    "huber": lambda spec: huber(spec.huber_delta),
    "cross_entropy": lambda spec: cross_entropy(spec.class_weights),
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
