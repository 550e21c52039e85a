"""Exponentially weighted recursive least squares (Haykin, Adaptive Filter Theory, ch. 10), for rows side by side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.parameters import Array

F64 = NDArray[np.float64]
LARGEST_FACTOR = 1e6  # of a covariance kept as factor times matrix, before it is multiplied out


class Covariance:
    """Inverse covariances P of G groups of n regressors, float64, each as a factor times a matrix.

    Forgetting makes P grow without bound in directions that are not excited, so its trace is limited to its initial
    value. A block of rows forgets once, as one update of the network does.
    """

    def __init__(self, groups: int, n: int, forgetting: float, start: float) -> None:
        self.forgetting, self.start, self.n = forgetting, start, n
        self.matrix: F64 = np.zeros((groups, n, n))
        self.factor: F64 = np.ones(groups)
        self.trace: F64 = np.zeros(groups)  # of the matrices
        self._outer: F64 = np.empty_like(self.matrix)  # workspace: a new array of this size costs more than the product
        self.reset()

    def reset(self) -> None:
        """Return to the initial covariance: nothing is known."""
        self.matrix[...] = self.start * np.eye(self.n)
        self.factor[...] = 1
        self.trace[...] = self.start * self.n

    @property
    def nbytes(self) -> int:
        """Bytes of the state, which `pack` returns."""
        return self.matrix.nbytes + self.factor.nbytes + self.trace.nbytes

    def gains(self, z: Array) -> F64:
        """Add a block of rows and return their gains, [B, G, n], new. z: [B, G, n]; a row of zeros adds nothing."""
        rows = np.ascontiguousarray(z.transpose(1, 0, 2), np.float64)  # [G, B, n]
        gain = self._one(rows[:, 0])[:, None] if rows.shape[1] == 1 else self._block(rows)
        self.factor /= self.forgetting
        limit = self.start * self.n
        self.factor *= np.minimum(1, limit / np.maximum(self.factor * self.trace, 1e-300))
        large = self.factor > LARGEST_FACTOR
        if large.any():
            self.matrix[large] *= self.factor[large, None, None]
            self.trace[large] *= self.factor[large]
            self.factor[large] = 1
        return gain.transpose(1, 0, 2)

    def _one(self, z: F64) -> F64:
        """Add one row per group, z [G, n]. The outer product of one vector keeps P exactly symmetric."""
        projected = np.matmul(self.matrix, z[:, :, None])[:, :, 0]
        energy = self.forgetting + self.factor * np.maximum(np.einsum("gi,gi->g", projected, z), 0)
        v = projected * np.sqrt(self.factor / energy)[:, None]
        self.matrix -= np.multiply(v[:, :, None], v[:, None, :], out=self._outer)
        self.trace -= np.einsum("gi,gi->g", v, v)
        gain: F64 = projected * (self.factor / energy)[:, None]
        return gain

    def _block(self, z: F64) -> F64:
        """Add B rows per group at once, z [G, B, n]; the matrix inversion lemma."""
        projected = np.matmul(z, self.matrix)  # [G, B, n]
        energy = self.factor[:, None, None] * np.matmul(projected, z.transpose(0, 2, 1))
        energy = (energy + energy.transpose(0, 2, 1)) / 2 + self.forgetting * np.eye(z.shape[1])
        gain = self.factor[:, None, None] * np.linalg.solve(energy, projected)
        taken = np.matmul(projected.transpose(0, 2, 1), gain)
        self.matrix -= (taken + taken.transpose(0, 2, 1)) / 2
        self.trace[...] = np.einsum("gii->g", self.matrix)
        return gain

    def pack(self) -> bytes:
        """Return the state as bytes."""
        return self.factor.tobytes() + self.trace.tobytes() + self.matrix.tobytes()

    def unpack(self, data: bytes) -> None:
        """The inverse of `pack`. Raises ValueError for another length."""
        values, groups = np.frombuffer(data, np.float64), len(self.factor)
        if len(values) != 2 * groups + self.matrix.size:
            raise ValueError(f"a covariance of {len(values)} numbers, expected {2 * groups + self.matrix.size}")
        self.factor[...], self.trace[...] = values[:groups], values[groups : 2 * groups]
        self.matrix[...] = values[2 * groups :].reshape(self.matrix.shape)
