"""What the learner keeps per stream (DESIGN R7): scaler statistics, start state, last T inputs, last origins."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.cell import Array
from model.network import Network
from model.rounds import GROUP_ROWS

# A learner's contexts: so many, or as many as fit the budget.
MAX_CONTEXTS = 20_000
CONTEXT_BUDGET_BYTES = 1 << 30


def shapes(network: Network) -> tuple[tuple[int, ...], ...]:
    """Of a context's parts: scaler statistics, start state, last inputs, values of the last origins, their scales."""
    spec, targets = network.spec, len(network.spec.targets)
    origins = spec.horizon + spec.learn_every - 1
    inputs = (spec.window, network.features)
    return (network.scaler.size,), (network.hidden_size,), inputs, (origins, targets), (origins, spec.horizon, targets)


def width(network: Network) -> int:
    """float32 numbers of one context."""
    return sum(map(math.prod, shapes(network)))


def most_contexts(network: Network) -> int:
    """How many contexts a learner keeps: a function of the spec alone, as evictions are part of the fold."""
    return max(GROUP_ROWS, min(MAX_CONTEXTS, CONTEXT_BUDGET_BYTES // (4 * width(network))))


class Block:
    """B contexts taken out of the arena, as named views. Changes reach the arena by `Contexts.store`.

    statistics [B, n], start [B, hidden_size], ring [B, T, E] oldest input first, x [B, R, targets] and
    scale [B, R, H, targets] of the last R origins, oldest first; fill [B] inputs in the ring, known [B] origins that
    labels may still join, last_time [B] seconds (NaN: none).
    """

    def __init__(self, contexts: Contexts, rows: Array, marks: NDArray[np.float64]) -> None:
        self.rows, self.marks = rows, marks
        B, parts = len(rows), contexts.parts
        self.statistics, self.start = rows[:, parts[0]], rows[:, parts[1]]
        self.ring = rows[:, parts[2]].reshape(B, *contexts.ring_shape)
        self.x = rows[:, parts[3]].reshape(B, *contexts.x_shape)
        self.scale = rows[:, parts[4]].reshape(B, *contexts.scale_shape)
        self.fill, self.known, self.last_time = marks[:, 0], marks[:, 1], marks[:, 2]


class Contexts:
    """An arena of contexts by stream number, least recently used evicted beyond `limit`, in journal order.

    Raises ValueError for a limit below GROUP_ROWS: a stream evicted while its own group is taken would share its slot
    with another row.
    """

    def __init__(self, network: Network, limit: int) -> None:
        if limit < GROUP_ROWS:
            raise ValueError(f"limit = {limit}; give at least {GROUP_ROWS}, the rows of a group")
        parts = shapes(network)
        _, _, self.ring_shape, self.x_shape, self.scale_shape = parts
        ends = [0, *accumulate(map(math.prod, parts))]
        self.parts = [slice(start, end) for start, end in pairwise(ends)]
        self.width = ends[-1]
        self.limit = limit
        self.evicted = 0
        self.cut_off = 0  # origins whose labels an eviction cut off
        self._slots: OrderedDict[int, int] = OrderedDict()
        self._free: list[int] = []
        self._rows: Array = np.zeros((0, self.width), np.float32)
        self._marks = np.zeros((0, 3))
        self._changed: set[int] = set()
        self._removed: set[int] = set()

    def __len__(self) -> int:
        return len(self._slots)

    def take(self, streams: Iterable[int]) -> tuple[NDArray[np.intp], Block]:
        """Slots and a copied block of the streams' contexts; unknown streams begin with an empty one."""
        slots = np.fromiter((self._slot(int(s)) for s in streams), np.intp)
        return slots, Block(self, self._rows[slots], self._marks[slots])

    def store(self, slots: NDArray[np.intp], block: Block) -> None:
        """Write a block back to where `take` found it."""
        self._rows[slots] = block.rows
        self._marks[slots] = block.marks

    def remove(self, stream: int) -> int:
        """Forget a stream; its next tick begins an empty context. Returns the origins that were waiting for labels."""
        slot = self._slots.pop(stream, None)
        if slot is None:
            return 0
        self._changed.discard(stream)
        self._removed.add(stream)
        self._free.append(slot)
        return int(self._marks[slot, 1])

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
        self._marks[slot] = (0, 0, np.nan)
        self._slots[stream] = slot
        return slot

    def _grow(self) -> None:
        old, new = len(self._rows), min(self.limit, max(16, 2 * len(self._rows)))
        rows, marks = np.zeros((new, self.width), np.float32), np.zeros((new, 3))
        rows[:old], marks[:old] = self._rows, self._marks
        self._rows, self._marks = rows, marks
        self._free = list(range(new - 1, old - 1, -1))

    def changes(self) -> tuple[dict[int, bytes], set[int]]:
        """Contexts touched and streams removed since the last call: what a checkpoint has to write."""
        out = {s: self._rows[i].tobytes() + self._marks[i].tobytes() for s in self._changed for i in [self._slots[s]]}
        removed, self._changed, self._removed = self._removed, set(), set()
        return out, removed

    def order(self) -> list[int]:
        """Stream numbers, least recently used first."""
        return list(self._slots)

    def restore(self, stored: dict[int, bytes], order: Iterable[int]) -> None:
        """Fill an empty arena from what `changes` gave, in order of use. Raises ValueError for a wrong length."""
        expected = 4 * self.width + 8 * 3
        for stream in order:
            data = stored[stream]
            if len(data) != expected:
                raise ValueError(f"context of stream {stream} has {len(data)} bytes, expected {expected}")
            slot = self._slot(stream)
            self._rows[slot] = np.frombuffer(data, np.float32, self.width)
            self._marks[slot] = np.frombuffer(data, np.float64, 3, 4 * self.width)
        self._changed.clear()


def pad_rows(size: int, array: Array, axis: int) -> Array:
    """`array` with zero rows appended along `axis` up to `size`."""
    missing = size - array.shape[axis]
    if not missing:
        return array
    widths: list[Any] = [(0, 0)] * array.ndim
    widths[axis] = (0, missing)
    return np.pad(array, widths)
