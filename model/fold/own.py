"""Learning of the streams' own readouts (`Own`) as part of the fold: the regressors' mean squares, and each context.

A context's readout learns with the labels that the model learns, one tick later than a served stream's, from the same
numbers: those of the tick before, with the weights before the update.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.answers.own import Look, Own
from model.parameters import Array

MEMORY = 32_768  # rows that the mean squares cover
DIRECTIONS_EVERY = 64  # most updates between two computations of the directions, which cost n³
GROWTH = 16  # before that, one in each of this part of all updates so far


class OwnReadouts:
    """The mean squares of the regressors of one model's own readouts, float64. Their directions are parameters."""

    def __init__(self, own: Own) -> None:
        self.own = own
        self.squares = np.zeros((own.targets, own.n, own.n))
        self.rows = np.zeros(own.targets)
        self.since = np.zeros(2)  # updates, and updates at the last computation of the directions

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.squares.nbytes + self.rows.nbytes + self.since.nbytes

    def reset(self, params: dict[str, Array]) -> None:
        """Continue from the directions of other parameters."""
        axes, squares = params["own_axes"].astype(np.float64), params["own_squares"].astype(np.float64)
        self.squares[...] = np.matmul(axes * squares[:, None], axes.transpose(0, 2, 1))
        known = squares.any(axis=1)
        self.rows[...] = np.where(known, MEMORY, 0)
        self.since[...] = GROWTH * DIRECTIONS_EVERY if known.all() else 0

    def look(self, params: dict[str, Array], rows: Array, z: Array, model: Array) -> Look:
        """Return what the newest tick of each row gives. rows: [B, size]; z: [B, K, n]; model: [B, K]."""
        return self.own.look(params, rows, z, model)

    def learn(
        self,
        params: dict[str, Array],
        rows: Array,
        look: Look,
        scale: Array,
        z: Array,
        y: Array,
        known: NDArray[np.bool_],
    ) -> None:
        """Learn from the labels y [B, K] of the newest tick; parameters and rows [B, size] change. scale: [B, K]."""
        self.own.keep(rows, look, scale)
        self.own.learn(rows, y, known)
        counted = known.sum(axis=0)
        seen = np.ascontiguousarray((z * known[:, :, None]).transpose(1, 0, 2), np.float64)  # [K, B, n]
        self.rows[...] = np.minimum(self.rows + counted, MEMORY)
        share = 1 / np.maximum(self.rows, 1)
        self.squares *= (1 - counted * share)[:, None, None]
        self.squares += np.matmul(seen.transpose(0, 2, 1), seen) * share[:, None, None]
        self.since[0] += 1
        if self.since[0] - self.since[1] >= min(DIRECTIONS_EVERY, 1 + self.since[0] // GROWTH):
            self.since[1] = self.since[0]
            squares, axes = np.linalg.eigh(self.squares)
            params["own_squares"][...], params["own_axes"][...] = np.maximum(squares, 0), axes

    def pack(self) -> bytes:
        """Return the state as bytes."""
        return self.squares.tobytes() + self.rows.tobytes() + self.since.tobytes()

    def unpack(self, data: bytes) -> None:
        """The inverse of `pack`. Raises ValueError for another length."""
        if len(data) != self.nbytes:
            raise ValueError(f"mean squares of {len(data)} bytes, expected {self.nbytes}")
        values = np.frombuffer(data, np.float64)
        n, K = self.squares.size, len(self.rows)
        self.squares[...] = values[:n].reshape(self.squares.shape)
        self.rows[...], self.since[...] = values[n : n + K], values[n + K :]
