"""Storage of the learner's contexts: a row per stream number; the least recently used is evicted, in journal order."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from model.parameters import Array
from model.update.rounds import GROUP_ROWS


class Arena:
    """Contexts by stream number. A context is a row of float32 in parts, and a few float64 marks.

    shapes: of a context's parts. A new context is all zeros, with `fresh_marks`.
    Raises ValueError for a limit below GROUP_ROWS: a stream could be evicted while its own group is processed, and
    would then share its slot with another row of the group.
    """

    fresh_marks: ClassVar[tuple[float, ...]]

    def __init__(self, shapes: Sequence[tuple[int, ...]], limit: int) -> None:
        if limit < GROUP_ROWS:
            raise ValueError(f"limit = {limit}; give at least {GROUP_ROWS}, the rows of a group")
        ends = [0, *accumulate(map(math.prod, shapes))]
        self.shapes = tuple(shapes)
        self.parts = [slice(start, end) for start, end in pairwise(ends)]
        self.width = ends[-1]
        self.limit = limit
        self.evicted = 0
        self.cut_off = 0  # labels lost to evictions; see `waiting`
        self._slots: OrderedDict[int, int] = OrderedDict()
        self._free: list[int] = []
        self._rows: Array = np.zeros((0, self.width), np.float32)
        self._marks = np.zeros((0, len(self.fresh_marks)))
        self._changed: set[int] = set()
        self._removed: set[int] = set()

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def nbytes(self) -> int:
        """Bytes of all contexts."""
        return self._rows.nbytes + self._marks.nbytes

    def waiting(self, slot: int) -> int:
        """Return the number of labels that a context is known to wait for."""
        raise NotImplementedError

    def slots(self, streams: Iterable[int]) -> NDArray[np.intp]:
        """Return the slots of the streams' contexts and mark them as most recently used; new streams get empty ones."""
        return np.fromiter((self._slot(int(s)) for s in streams), np.intp)

    def remove(self, stream: int) -> int:
        """Drop a stream's context and return the number of labels it waited for. Its next tick starts an empty one."""
        slot = self._slots.pop(stream, None)
        if slot is None:
            return 0
        self._changed.discard(stream)
        self._removed.add(stream)
        self._free.append(slot)
        return self.waiting(slot)

    def _slot(self, stream: int) -> int:
        self._changed.add(stream)
        self._removed.discard(stream)
        slot = self._slots.get(stream)
        if slot is not None:
            self._slots.move_to_end(stream)
            return slot
        if len(self._slots) >= self.limit:
            self.cut_off += self.remove(next(iter(self._slots)))
            self.evicted += 1
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._rows[slot] = 0
        self._marks[slot] = self.fresh_marks
        self._slots[stream] = slot
        return slot

    def _grow(self) -> None:
        old, new = len(self._rows), min(self.limit, max(16, 2 * len(self._rows)))
        rows, marks = np.zeros((new, self.width), np.float32), np.zeros((new, self._marks.shape[1]))
        rows[:old], marks[:old] = self._rows, self._marks
        self._rows, self._marks = rows, marks
        self._free = list(range(new - 1, old - 1, -1))

    def changes(self) -> tuple[dict[int, bytes], set[int]]:
        """Return contexts changed and streams removed since the last call: what a checkpoint has to write."""
        out = {s: self._rows[i].tobytes() + self._marks[i].tobytes() for s in self._changed for i in [self._slots[s]]}
        removed, self._changed, self._removed = self._removed, set(), set()
        return out, removed

    def order(self) -> list[int]:
        """Return the stream numbers, least recently used first."""
        return list(self._slots)

    def restore(self, stored: dict[int, bytes], order: Iterable[int]) -> None:
        """Fill an empty arena with contexts from `changes`, in order of use. Raises ValueError for a wrong length."""
        marks = self._marks.shape[1]
        expected = 4 * self.width + 8 * marks
        for stream in order:
            data = stored[stream]
            if len(data) != expected:
                raise ValueError(f"context of stream {stream} has {len(data)} bytes, expected {expected}")
            slot = self._slot(stream)
            self._rows[slot] = np.frombuffer(data, np.float32, self.width)
            self._marks[slot] = np.frombuffer(data, np.float64, marks, 4 * self.width)
        self._changed.clear()
