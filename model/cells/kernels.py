"""In-place arithmetic shared by the cells. Feature-major: slabs of gates are contiguous, the batch is innermost.

Constants are 0-d arrays: on small slabs NumPy is a quarter faster with them than with Python floats.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

EPS = 1e-5  # added to a variance
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


def linear(W: Array, X: Array, out: Array) -> Array:
    """Write W·[x; 1] of each row of X [n, K] to out [n, M] and return it. W: [M, K + 1], biases last."""
    np.dot(X, W[:, :-1].T, out=out)
    np.add(out, W[:, -1], out=out)
    return out


def linear_backward(dY: Array, X: Array, dW: Array) -> None:
    """Add the gradient of `linear` by W to dW [M, K + 1], from dY [n, M] and X [n, K]."""
    dW[:, :-1] += np.dot(dY.T, X)
    dW[:, -1] += np.add.reduce(dY, axis=0)


def standardize(X: Array, out: Array, inverse: Array) -> None:
    """Write (x − mean)/√(variance + EPS) of each row of X [n, d] to out [n, d], and the factor 1/√… to inverse [n, 1].

    Layer normalization (Ba, Kiros & Hinton, arXiv:1607.06450, eq. 4) without gain and bias. out may be X.
    """
    d = X.dtype.type(X.shape[1])
    np.subtract(X, np.add.reduce(X, axis=1, keepdims=True) / d, out=out)
    square = np.einsum("ij,ij->i", out, out)[:, None]
    square /= d
    square += X.dtype.type(EPS)
    np.reciprocal(np.sqrt(square, out=square), out=inverse)
    np.multiply(out, inverse, out=out)


def standardize_backward(dY: Array, Y: Array, inverse: Array, out: Array) -> None:
    """Write the gradient by X of `standardize` to out [n, d], from dY [n, d], Y [n, d] and inverse [n, 1].

    out may be dY.
    """
    d = Y.dtype.type(Y.shape[1])
    shift = Y * (np.einsum("ij,ij->i", dY, Y)[:, None] / d)
    shift += np.add.reduce(dY, axis=1, keepdims=True) / d
    np.subtract(dY, shift, out=out)
    np.multiply(out, inverse, out=out)


def fraction_saturated(gates: Array) -> float:
    """Return the fraction of sigmoid outputs below 0.05 or above 0.95: gates that pass almost no gradient."""
    return float(np.mean(np.abs(gates - 0.5) > 0.45))


def units_saturated(gates: Array) -> NDArray[np.bool_]:
    """Return which units have a gate that `fraction_saturated` counts. gates: [gates, H, B] of one step → [B, H]."""
    passing: NDArray[np.bool_] = np.logical_or.reduce(np.abs(gates - 0.5) > 0.45, axis=0)
    return passing.T


def step_norms(D: Array) -> Array:
    """Return the L2 norm of each step's slab: [T, M, B] → [T] float64."""
    norms: Array = np.sqrt(np.einsum("thb,thb->t", D, D, dtype=np.float64))
    return norms
