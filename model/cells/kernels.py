"""In-place arithmetic shared by the cells. Feature-major: slabs of gates are contiguous, the batch is innermost.

Constants are 0-d arrays: on small slabs NumPy is a quarter faster with them than with Python floats.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

COLUMNS = 256  # terms of one weight-gradient product
FIRST_FLUSH, FLUSH_EVERY = 32, 16  # ticks before the first `flush` of a backward, and between two
# Below it an element of a gradient counts as vanished, by type. It leaves the room above the smallest normal number
# that a gradient may lose in FLUSH_EVERY ticks and in products with local derivatives and weights. In float32: 2⁻⁸⁶.
FLOORS = {np.dtype(of): np.array(np.finfo(of).tiny * 2.0**40, of) for of in (np.float32, np.float64)}


def half(dtype: type[np.floating[Any]]) -> Array:
    """Return the 0-d constant 0.5."""
    return np.array(0.5, dtype)


def sigmoid_from_halved(a: Array, half: Array) -> None:
    """Turn tanh(x/2) into σ(x) = ½·tanh(x/2) + ½ in place. The caller has halved the weights that gave x/2."""
    np.multiply(a, half, out=a)
    np.add(a, half, out=a)


def stretches(T: int) -> list[range]:
    """Return the ticks of a window, newest first, in parts; `flush` follows each part. Up to 32 ticks are one part."""
    return [range(high - 1, low - 1, -1) for high, low in pairwise([T, *range(T - FIRST_FLUSH, 0, -FLUSH_EVERY), 0])]


def flush(d: Array, *others: Array, scratch: Array) -> bool:
    """Set vanished elements of a gradient to 0, in place, so that they never become subnormal; return if all are 0.

    Some processors compute with subnormal numbers many times slower. Only values decide, so all machines do the same:
    an element stays if its magnitude is at least the floor of its type. NaN stays NaN.
    d: the gradient by a step's hidden state; others: by further parts of the state, of the same shape, which are only
    looked at once an element of d has vanished; scratch: of this shape, overwritten.
    """
    floor = FLOORS[d.dtype]
    np.abs(d, out=scratch)
    if np.minimum.reduce(scratch, axis=None) >= floor:
        return False
    for part in (d, *others):
        np.abs(part, out=scratch)
        np.multiply(part, scratch >= floor, out=part)
    return not any(part.any() for part in (d, *others))


class ProductScratch:
    """Buffers of `accumulate_products` for dA [T, M, B] and X [T, K, B]; allocating them per call costs page faults."""

    def __init__(self, M: int, K: int, T: int, B: int, dtype: type[np.floating[Any]]) -> None:
        self.ticks = max(1, min(T, COLUMNS // B))
        self.dA, self.X = np.empty((M, self.ticks, B), dtype), np.empty((K, self.ticks, B), dtype)
        self.dW = np.empty((M, K), dtype)


def accumulate_products(dW: Array, dA: Array, X: Array, scratch: ProductScratch) -> None:
    """Add Σ_t dA[t] @ X[t]ᵀ to dW. dA: [T, M, B], X: [T, K, B], dW: [M, K]; scratch of the same sizes is overwritten.

    Ticks are copied side by side until a product sums over COLUMNS terms; the copy costs less than short products do
    (a whole training step took 0.82 of the time at B = 4, 0.92 at 16, 1.0 at 32 and above).
    """
    (T, M, B), K, n = dA.shape, X.shape[1], scratch.ticks
    if B == 1:  # time is already contiguous with the batch
        np.dot(dA.reshape(T, M).T, X[:, :, 0], out=scratch.dW)
        dW += scratch.dW
        return
    if n == 1:  # a tick is as wide as a product is to be
        for a, x in zip(dA, X, strict=True):
            np.dot(a, x.T, out=scratch.dW)
            dW += scratch.dW
        return
    for t in range(0, T, n):
        width = min(n, T - t)
        a, x = scratch.dA[:, :width], scratch.X[:, :width]
        np.copyto(a, dA[t : t + n].transpose(1, 0, 2))
        np.copyto(x, X[t : t + n].transpose(1, 0, 2))
        np.dot(a.reshape(M, -1), x.reshape(K, -1).T, out=scratch.dW)
        dW += scratch.dW


def fraction_saturated(gates: Array) -> float:
    """Return the fraction of sigmoid outputs below 0.05 or above 0.95: gates that pass almost no gradient."""
    return float(np.mean(np.abs(gates - 0.5) > 0.45))


def step_norms(D: Array) -> Array:
    """Return the L2 norm of each step's slab: [T, M, B] → [T] float64."""
    norms: Array = np.sqrt(np.einsum("thb,thb->t", D, D, dtype=np.float64))
    return norms
