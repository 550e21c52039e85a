"""Values for the tests of scalers, and functions that run a scaler over them."""

from __future__ import annotations

import numpy as np

from model.parameters import Array
from model.scalers.contract import ALPHA, Scaler, fill
from tests.oracles.slow_scaler import SlowScaler


def series(n: int = 700, seed: int = 0) -> Array:
    """Return [n, 2] float64: a mean-reverting random walk, and one with rare jumps; spread about 1."""
    rng = np.random.default_rng(seed)
    x, out = np.zeros(2), []
    for _ in range(n):
        x = 0.95 * x + rng.normal(0, 0.3, 2) + (rng.random(2) < (0, 0.02)) * rng.normal(0, 5, 2)
        out.append(x)
    return np.array(out)


def gaps(x: Array, seed: int = 7) -> Array:
    """Return `x` [n, ..., C] with a quarter NaN: single values, runs, whole ticks, starts of all channels but one."""
    rng = np.random.default_rng(seed)
    missing = rng.random(x.shape) < 0.2
    missing |= (rng.random(x.shape[:-1]) < 0.05)[..., None]
    missing[40:70, ..., 0] = True
    for channel in range(x.shape[-1]):
        missing[: 4 * channel, ..., channel] = True
    return np.where(missing, np.nan, x)


def run(scaler: Scaler, x: Array) -> tuple[Array, Array]:
    """Return features [n, features] and scales [n, H, C] of the values [n, C] of one stream, without the mask."""
    row, features, scales = np.zeros((1, scaler.size), np.float32), [], []
    for value in x.astype(np.float32):
        feature, scale = scaler.update(row, *fill(scaler, row, value[None]))
        features.append(feature[0])
        scales.append(scale[0])
    return np.array(features), np.array(scales)


def run_slow(name: str, horizon: int, x: Array) -> tuple[Array, Array]:
    """Return what `run` does, by the slow twin from float32 values."""
    slow = SlowScaler(name, x.shape[1], horizon)
    pairs = [slow.update(value) for value in x.astype(np.float32).astype(np.float64)]
    return np.array([f for f, _ in pairs]), np.array([s for _, s in pairs])


def units(scaler: Scaler, least: float) -> Array:
    """Return the size of each statistic [size] that its differences are compared with: `least`, but where the module
    `robust` gives it one.

    A trend and a shift are at most 1. A haste below ALPHA, the slowest rate, has no effect.
    """
    of = {"a trend": 1.0, "a shift": 1.0, "a haste": ALPHA}
    sizes = [of.get(bound.name, least) for bound in scaler.bounds]
    return np.repeat(np.array(sizes, np.float32), scaler.parts)
