"""The entries that the store has acknowledged, to compare with what it lists: plain data, no I/O."""

from __future__ import annotations

import itertools
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from service.cluster.store.seam import Extent, StoreLost


class Ledger:
    """Entries of one shard, in order and without gaps: 12 bytes for each. Any thread may call."""

    def __init__(self, shard: int, begin: int, chain: int) -> None:
        """begin: offset of the first entry; chain: of the journal there."""
        self._shard = shard
        self._offsets, self._chains = array("Q", [begin]), array("I", [chain])  # the last ones are the end
        self._lock = threading.Lock()

    @property
    def begin(self) -> int:
        """Offset of the first entry."""
        return self._offsets[0]

    @property
    def end(self) -> int:
        """Offset after the last entry."""
        return self._offsets[-1]

    def add(self, end: int, chain: int) -> None:
        """Add the entry that ends at `end`, where the chain is `chain`."""
        with self._lock:
            self._offsets.append(end)
            self._chains.append(chain)

    def boundary(self, position: int) -> tuple[int, int]:
        """Return the offset of the entry that holds `position`, or begins there, and the chain at that offset.

        Raises ValueError for a position before the first entry or after the end.
        """
        with self._lock:
            if not self._offsets[0] <= position <= self._offsets[-1]:
                raise ValueError(f"position {position} is not in {self._offsets[0]}..{self._offsets[-1]}")
            i = bisect_right(self._offsets, position) - 1
            return self._offsets[i], self._chains[i]

    def forget_before(self, offset: int) -> None:
        """Forget entries that end at or before `offset`."""
        with self._lock:
            n = max(0, bisect_right(self._offsets, offset) - 1)
            del self._offsets[:n], self._chains[:n]

    def extents(self, start: int) -> list[Extent]:
        """Return the entries from the one that begins at or after `start`."""
        with self._lock:
            offsets = self._offsets[bisect_left(self._offsets, start) :]
        return [Extent(a, b - a) for a, b in itertools.pairwise(offsets)]


def check_whole(shard: int, extents: Sequence[Extent], start: int) -> int:
    """Return the offset after the last of these entries. Raises StoreLost for a gap or an overlap from `start` on."""
    at = start
    for extent in extents:
        if extent.offset != at:
            what = "a gap" if extent.offset > at else "an overlap"
            raise StoreLost(
                f"shard {shard}: {what} in the store's entries: the one at offset {extent.offset} should begin at {at}"
            )
        at += extent.size
    return at


def missing(shard: int, acknowledged: Sequence[Extent], listed: Sequence[Extent]) -> Iterator[StoreLost]:
    """Yield an error for each acknowledged entry that a later listing lacks, or has with another size."""
    found = dict(listed)
    for offset, size in acknowledged:
        if found.get(offset) != size:
            seen = "is gone" if offset not in found else f"has {found[offset]} bytes"
            yield StoreLost(
                f"shard {shard}: the store acknowledged an entry of {size} bytes at offset {offset}, and now it {seen}"
            )
