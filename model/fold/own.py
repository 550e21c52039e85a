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
DIRECTIONS_EVERY = 64  # updates between two computations of a target's directions, which cost n³
GROWTH = 16  # of a new model, one in this part of all updates so far
MOST_TARGETS = 16  # whose directions are computed in one update


class OwnReadouts:
    """The mean squares of the regressors of one model's own readouts, float64. Their directions are parameters."""

    def __init__(self, own: Own) -> None:
        self.own = own
        self.squares = np.zeros((own.targets, own.n, own.n))
        self.rows = np.zeros(own.targets)
        self.updates = np.zeros(1)
        self.computed = np.zeros(own.targets)  # updates at the last computation of the directions

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(part.nbytes for part in self._state())

    def reset(self, params: dict[str, Array]) -> None:
        """Continue from the directions of other parameters."""
        axes, squares = params["own_axes"].astype(np.float64), params["own_squares"].astype(np.float64)
        self.squares[...] = np.matmul(axes * squares[:, None], axes.transpose(0, 2, 1))
        known = squares.any(axis=1)
        self.rows[...] = np.where(known, MEMORY, 0)
        self.updates[...] = GROWTH * DIRECTIONS_EVERY if known.all() else 0
        self.computed[...] = self.updates

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
        counting = np.where(known[:, :, None], z, 0)
        seen = np.ascontiguousarray(counting.transpose(1, 0, 2), np.float64)  # [K, B, n]
        self.rows[...] = np.minimum(self.rows + counted, MEMORY)
        share = 1 / np.maximum(self.rows, 1)
        self.squares *= (1 - counted * share)[:, None, None]
        self.squares += np.matmul(seen.transpose(0, 2, 1), seen) * share[:, None, None]
        self._turn(params)

    def _turn(self, params: dict[str, Array]) -> None:
        """Compute the directions of the targets whose last ones are the oldest and old enough."""
        self.updates += 1
        age = self.updates - self.computed
        due = np.flatnonzero(age >= min(DIRECTIONS_EVERY, 1 + self.updates[0] // GROWTH))
        for k in due[np.argsort(-age[due], kind="stable")][:MOST_TARGETS]:
            squares, axes = np.linalg.eigh(self.squares[k])
            params["own_squares"][k], params["own_axes"][k] = np.maximum(squares, 0), axes
            self.computed[k] = self.updates[0]

    def _state(self) -> tuple[NDArray[np.float64], ...]:
        return self.squares, self.rows, self.updates, self.computed

    def pack(self) -> bytes:
        """Return the state as bytes."""
        return b"".join(part.tobytes() for part in self._state())

    def unpack(self, data: bytes) -> None:
        """The inverse of `pack`. Raises ValueError for another length."""
        if len(data) != self.nbytes:
            raise ValueError(f"mean squares of {len(data)} bytes, expected {self.nbytes}")
        start = 0
        for part in self._state():
            part[...] = np.frombuffer(data, np.float64, part.size, start).reshape(part.shape)
            start += part.nbytes
