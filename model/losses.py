"""Losses in scaled units, with a weight per output: the mask that says which positions have a label."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from model.cell import Array

Loss = Callable[[Array, Array, Array], tuple[Array, Array]]


def mse(p: Array, y: Array, weight: Array) -> tuple[Array, Array]:
    """½·w·(p − y)² per output, and its derivative by p. All arrays have one shape; both results are new."""
    error = p - y
    dp = weight * error
    return 0.5 * dp * error, dp


LOSSES: dict[str, Loss] = {"mse": mse}


def clipped_score(p: Array, y: Array, weight: Array, limit: float = 4.0) -> Array:
    """Mean squared error of each row over its labelled outputs, clipped to `limit` and divided by it: [B] in 0..1.

    p, y, weight: [T, B, O]. What the gate compares; bounded, so that one absurd label cannot decide. NaN counts as 1.
    """
    square = np.minimum((p - y) ** 2, limit) / limit
    square = np.where(np.isnan(square), 1.0, square)
    total: Array = np.asarray(np.sum(square * weight, axis=(0, 2), dtype=np.float64))
    return total / np.maximum(np.sum(weight, axis=(0, 2), dtype=np.float64), 1e-12)
