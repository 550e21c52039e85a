"""Causal attention over a sliding window (Vaswani et al. 2017, arXiv:1706.03762, eq. 1; the window as in Beltagy et al.
2020, arXiv:2004.05150): each query reads the last W keys, its own included.

Queries are [n, B, d], keys and values [B, W − 1 + n, d]; d is heads × width. The arrays of heads are views, which BLAS
reads without a copy. Queries are taken in blocks of at most BLOCK, so that time and memory grow with W and not with the
length of the window.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from model.parameters import Array

BLOCK = 16  # queries of one product; a block computes W − 1 + BLOCK scores of each, of which W count
BASE = 10_000.0  # of the angles: Su et al. 2021, arXiv:2104.09864, section 3.2.2


def score_width(window: int, ticks: int) -> int:
    """Return the scores that a head computes for one query, in windows of this many ticks."""
    return window - 1 + min(BLOCK, ticks)


def of_queries(X: Array, heads: int) -> Array:
    """Return a view [B, heads, n, width] of X [n, B, d]."""
    n, B, d = X.shape
    return X.reshape(n, B, heads, d // heads).transpose(1, 2, 0, 3)


def of_keys(X: Array, heads: int) -> Array:
    """Return a view [B, heads, L, width] of X [B, L, d]."""
    B, L, d = X.shape
    return X.reshape(B, L, heads, d // heads).transpose(0, 2, 1, 3)


class Attention:
    """Buffers and products of attention for B rows and up to T queries.

    After `forward`, `P` holds the attention weights of each block of n queries, [B, heads, n, W − 1 + n]: query i of a
    block reads columns i..i + W − 1, and the others are 0.
    """

    def __init__(self, T: int, B: int, d: int, heads: int, window: int, dtype: type[np.floating[Any]]) -> None:
        self.T, self.B, self.heads, self.window = T, B, heads, window
        size = -(-T // BLOCK) * min(T, BLOCK) * B * heads * score_width(window, T)
        self.weights = np.empty(size, dtype)
        self.scratch = np.empty(B * heads * min(T, BLOCK) * score_width(window, T), dtype)
        self.O = np.empty((T, B, d), dtype)
        self.blocks: list[tuple[int, int]] = []  # queries of each block
        self.P: list[Array] = []

    def _lay_out(self, queries: int) -> None:
        """Choose the blocks of the last forward's queries."""
        starts = range(0, queries, BLOCK)
        self.blocks = [(a, min(a + BLOCK, queries)) for a in starts]
        size = self.B * self.heads * min(BLOCK, self.T) * score_width(self.window, self.T)
        self.P = [self._scores(self.weights[i * size :], b - a) for i, (a, b) in enumerate(self.blocks)]

    def _scores(self, buffer: Array, n: int) -> Array:
        shape = (self.B, self.heads, n, self.window - 1 + n)
        return buffer[: math.prod(shape)].reshape(shape)

    def forward(self, Q: Array, K: Array, V: Array, bias: Array | None, filled: Array) -> Array:
        """Return softmax(Q·Kᵀ + bias)·V of each head, [n, B, d], a view of these buffers.

        Q: [n, B, d], scaled by the caller; K, V: [B, W − 1 + n, d], the keys before the queries and their own;
        bias: [heads, W], added to the scores by slot, the query's own last; None: 0. filled: [B], how many of the first
        W − 1 keys exist, the newest of them. All are only read.
        """
        n, W = len(Q), self.window
        self._lay_out(n)
        O = self.O[self.T - n :]  # noqa: E741
        q, o = (of_queries(X, self.heads) for X in (Q, O))
        k, v = (of_keys(X, self.heads) for X in (K, V))
        empty = None if (filled >= W - 1).all() else np.arange(W - 1 + n) < (W - 1 - filled)[:, None]
        for (a, b), P in zip(self.blocks, self.P, strict=True):
            stop = b + W - 1
            np.matmul(q[:, :, a:b], k[:, :, a:stop].swapaxes(-1, -2), out=P)
            if b - a > 1:
                np.add(P, band(np.zeros((1, W), Q.dtype) if bias is None else bias, b - a), out=P)
            elif bias is not None:
                np.add(P, bias[:, None], out=P)
            if empty is not None:
                np.copyto(P, -np.inf, where=empty[:, None, None, a:stop])
            softmax(P)
            np.matmul(P, v[:, :, a:stop], out=o[:, :, a:b])
        return O

    def backward(
        self, dO: Array, Q: Array, K: Array, V: Array, dQ: Array, dK: Array, dV: Array, dbias: Array | None
    ) -> None:
        """Write the gradients of the last forward to dQ [n, B, d], dK and dV [B, L, d]; add to dbias [heads, W].

        dO: [n, B, d], gradient by its result; Q, K, V: as given to it. All of these are only read. L: the newest keys
        whose gradient is wanted.
        """
        n, h, first = len(Q), self.heads, K.shape[1] - dK.shape[1]
        do, q, dq = (of_queries(X, h) for X in (dO, Q, dQ))
        k, v, dk, dv = (of_keys(X, h) for X in (K, V, dK, dV))
        along = np.einsum("bhnw,bhnw->bhn", do, of_queries(self.O[self.T - n :], h))[..., None]
        one = len(self.blocks) == 1
        if not one:
            dK[...], dV[...] = 0, 0
        for (a, b), P in zip(self.blocks, self.P, strict=True):
            stop = b + self.window - 1
            S = self._scores(self.scratch, b - a)
            np.matmul(do[:, :, a:b], v[:, :, a:stop].swapaxes(-1, -2), out=S)
            np.subtract(S, along[:, :, a:b], out=S)  # softmax' = P·(dP − Σ P·dP), and Σ P·dP = dO·O
            np.multiply(S, P, out=S)
            np.matmul(S, k[:, :, a:stop], out=dq[:, :, a:b])
            if dbias is not None:
                dbias += diagonals(S.sum(axis=0), self.window).sum(axis=1)
            since = max(a, first)
            if since >= stop:
                continue
            PT, ST = (X[..., since - a :].swapaxes(-1, -2) for X in (P, S))
            if one:
                np.matmul(PT, do, out=dv)
                np.matmul(ST, q, out=dk)
            else:
                dv[:, :, since - first : stop - first] += PT @ do[:, :, a:b]
                dk[:, :, since - first : stop - first] += ST @ q[:, :, a:b]

    def concentration(self, filled: Array) -> float:
        """Return 1 − the mean entropy of the last forward's weights, each divided by the logarithm of the keys read.

        filled: as given to it. Queries of a single key do not count; 0 if there is no other.
        """
        total, count = 0.0, 0
        for (a, b), P in zip(self.blocks, self.P, strict=True):
            keys = np.minimum(filled[:, None] + np.arange(a, b), self.window - 1) + 1  # [B, n]
            entropy = -(P * np.log(np.maximum(P, np.finfo(P.dtype).tiny))).sum(axis=(1, 3)) / self.heads
            several = keys > 1
            total += float((entropy[several] / np.log(keys[several])).sum())
            count += int(several.sum())
        return 1 - total / count if count else 0.0


def softmax(S: Array) -> None:
    """Replace scores [..., n] by their softmax over the last axis, in place; −inf becomes 0."""
    np.subtract(S, np.maximum.reduce(S, axis=-1, keepdims=True), out=S)
    np.exp(S, out=S)
    np.divide(S, np.add.reduce(S, axis=-1, keepdims=True), out=S)


def band(bias: Array, n: int) -> Array:
    """Return [heads, n, W − 1 + n], a view: row i holds bias [heads, W] from column i on, and −inf beside it."""
    heads, W = bias.shape
    wide = np.full((heads, W + 2 * (n - 1)), -np.inf, bias.dtype)
    wide[:, n - 1 : n - 1 + W] = bias
    one = wide.itemsize
    strides = (wide.shape[1] * one, -one, one)
    return np.ndarray((heads, n, W - 1 + n), wide.dtype, wide, (n - 1) * one, strides)


def diagonals(S: Array, window: int) -> Array:
    """Return [heads, n, W] of a contiguous S [heads, n, W − 1 + n], a view: of row i the columns from i on."""
    heads, n, wide = S.shape
    one = S.itemsize
    return np.ndarray((heads, n, window), S.dtype, S, 0, (n * wide * one, (wide + 1) * one, one))


def phases(ticks: int, width: int, dtype: type[np.floating[Any]]) -> Array:
    """Return the rotation of each tick and pair of features as complex numbers, [ticks, width // 2].

    Pair f turns by BASE^(−2f / width) per tick: the product of a turned query and a turned key then depends on
    how many ticks lie between them, and not on where they are.
    """
    pairs = width // 2
    angle = np.arange(ticks)[:, None] * BASE ** (-np.arange(pairs) / max(1, pairs))
    turned: Array = np.exp(1j * angle).astype(np.complex64 if dtype == np.float32 else np.complex128)
    return turned


def turn(X: Array, turned: Array, out: Array, heads: int) -> None:
    """Write X [.., d] to out, with neighbouring features of each head as a complex number times turned.

    turned: [.., heads·pairs], `phases` of each head; the dimensions before the last are broadcast. The last feature of
    an odd width stays as it is. out may be X.
    """
    width, pairs = X.shape[-1] // heads, turned.shape[-1] // heads
    if width == 2 * pairs:  # all heads in one loop
        np.multiply(X.view(turned.dtype), turned, out=out.view(turned.dtype))
        return
    if out is not X:
        np.copyto(out, X)
    if pairs:
        part = out.reshape(*out.shape[:-1], heads, width)[..., : 2 * pairs].view(turned.dtype)
        part *= turned.reshape(*turned.shape[:-1], heads, pairs)
