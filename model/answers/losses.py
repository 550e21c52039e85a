"""Losses in scaled units, with a weight per output: the mask that says which positions have a label.

A registry entry makes the loss that a spec asks for. A loss takes forecasts p, labels y and weights, all [.., O], only
reads them, and gives two new arrays of that shape: the loss of each output, and the derivative of their sum by p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from model.parameters import Array
from model.spec import ModelSpec

Loss = Callable[[Array, Array, Array], tuple[Array, Array]]


def mse(p: Array, y: Array, weight: Array) -> tuple[Array, Array]:
    """½·w·(p − y)² per output."""
    error = p - y
    dp = weight * error
    return 0.5 * dp * error, dp


def huber(delta: float) -> Loss:
    """½·w·e² up to |e| = |p − y| = delta, and from there on w·delta·(|e| − ½·delta) (Huber 1964, eq. 2.2)."""

    def loss(p: Array, y: Array, weight: Array) -> tuple[Array, Array]:
        error = p - y
        bounded = np.clip(error, -delta, delta)
        dp = weight * bounded
        return dp * (error - 0.5 * bounded), dp

    return loss


def cross_entropy(class_weights: Sequence[float]) -> Loss:
    """Softmax cross-entropy: p are logits, y the probabilities of the O classes, which sum to 1.

    A position is labelled or not as a whole: its weight is the largest of its outputs', times its class weight
    Σ_k y_k·w_k. Output k's part of the loss is −weight·y_k·log softmax(p)_k.
    """

    def loss(p: Array, y: Array, weight: Array) -> tuple[Array, Array]:
        position = weight.max(axis=-1, keepdims=True) * (y * np.asarray(class_weights, y.dtype)).sum(-1, keepdims=True)
        shifted = p - p.max(axis=-1, keepdims=True)  # exp cannot overflow, and one of them is 1
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
    """Mean squared error of each row over its labelled outputs, clipped to `limit` and divided by it: [B] in 0..1.

    p, y, weight: [T, B, O]. What the gate compares; bounded, so that one absurd label cannot decide. NaN counts as 1.
    """
    square = np.minimum((p - y) ** 2, limit) / limit
    square = np.where(np.isnan(square), 1.0, square)
    total: Array = np.asarray(np.sum(square * weight, axis=(0, 2), dtype=np.float64))
    return total / np.maximum(np.sum(weight, axis=(0, 2), dtype=np.float64), 1e-12)
