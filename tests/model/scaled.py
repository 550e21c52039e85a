"""Values for the scalers' tests, and a scaler run over them."""

from __future__ import annotations

from typing import Any

import numpy as np

from model.cell import Array


def series(n: int = 700, seed: int = 0) -> Array:
    """[n, 2] float64: a random walk that is pulled back, and one with rare jumps; spread about 1."""
    rng = np.random.default_rng(seed)
    x, out = np.zeros(2), []
    for _ in range(n):
        x = 0.95 * x + rng.normal(0, 0.3, 2) + (rng.random(2) < (0, 0.02)) * rng.normal(0, 5, 2)
        out.append(x)
    return np.array(out)


def run(scaler: Any, x: Array) -> tuple[Array, Array]:
    """Features [n, features] and scales [n, H, C] of one stream's values [n, C]. Takes a slow twin too."""
    if not hasattr(scaler, "size"):
        pairs = [scaler.update(value) for value in x.astype(np.float32).astype(np.float64)]
        return np.array([f for f, _ in pairs]), np.array([s for _, s in pairs])
    row, features, scales = np.zeros((1, scaler.size), np.float32), [], []
    for value in x.astype(np.float32):
        feature, scale = scaler.update(row, value[None])
        features.append(feature[0])
        scales.append(scale[0])
    return np.array(features), np.array(scales)
