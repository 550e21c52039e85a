"""Gradient accumulation: the gradients of several groups of labels, averaged for one step of the optimizer.

Each group counts by its rows with a label, so that a step has the gradient of all their rows as one group. The sum is
state: a checkpoint stores it between two groups.
"""

from __future__ import annotations

import numpy as np

from model.parameters import Array


class Accumulation:
    """The sum of up to `groups` gradients [n], each times its rows. With groups = 1 it holds nothing."""

    def __init__(self, groups: int, n: int) -> None:
        self.groups, self.added, self.rows = groups, 0, 0
        self.sum: Array = np.zeros(n if groups > 1 else 0, np.float32)

    @property
    def completes(self) -> bool:
        """Whether the next group is the last before a step."""
        return self.added + 1 >= self.groups

    def add(self, grad: Array, rows: int) -> None:
        """Add the gradient [n] of a group with `rows` labelled rows, which must be finite; it is only read."""
        self.sum += np.float32(rows) * grad
        self.rows += rows
        self.added += 1

    def take(self, grad: Array) -> None:
        """Overwrite `grad` [n] with the average, and start again from zero."""
        np.divide(self.sum, np.float32(max(1, self.rows)), out=grad)
        self.reset()

    def reset(self) -> None:
        """Forget the groups so far."""
        self.sum[...] = 0
        self.added = self.rows = 0

    def pack(self) -> bytes:
        """Return the state as bytes; empty between steps."""
        if not self.added:
            return b""
        return np.array([self.added, self.rows], np.int64).tobytes() + self.sum.tobytes()

    def unpack(self, data: bytes) -> None:
        """The inverse of `pack`. Raises ValueError for another length."""
        self.reset()
        if not data:
            return
        if len(data) != 16 + self.sum.nbytes:
            raise ValueError(f"an accumulated gradient of {len(data)} bytes, expected {16 + self.sum.nbytes}")
        self.added, self.rows = map(int, np.frombuffer(data[:16], np.int64))
        self.sum[...] = np.frombuffer(data[16:], np.float32)
