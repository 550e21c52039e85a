"""In-place arithmetic that the cells share. Feature-major: slabs of gates are contiguous, the batch is innermost.

Constants are 0-d arrays: NumPy takes them a quarter faster than Python floats on small slabs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def half(dtype: type[np.floating[Any]]) -> Array:
    """The 0-d constant 0.5."""
    return np.array(0.5, dtype)


def sigmoid_from_halved(a: Array, half: Array) -> None:
    """Finish σ(x) in place, where `a` holds tanh(x/2): σ(x) = ½·tanh(x/2) + ½. The weights were halved beforehand."""
    np.multiply(a, half, out=a)
    np.add(a, half, out=a)


def accumulate_products(dW: Array, dA: Array, X: Array, scratch: Array) -> None:
    """dW += Σ_t dA[t] @ X[t]ᵀ. dA: [T, M, B], X: [T, K, B], dW and scratch: [M, K], scratch overwritten.

    One product over all ticks where the batch is a single row (time is then contiguous with it), else one per tick.
    """
    T, M, B = dA.shape
    if B == 1:
        np.dot(dA.reshape(T, M).T, X[:, :, 0], out=scratch)
        dW += scratch
        return
    for t in range(T):
        np.dot(dA[t], X[t].T, out=scratch)
        dW += scratch


def fraction_saturated(gates: Array) -> float:
    """Fraction of sigmoid outputs below 0.05 or above 0.95: gates that pass almost no gradient."""
    return float(np.mean(np.abs(gates - 0.5) > 0.45))
