"""Entries that are left out of learning by record (DESIGN R6). Plain data, no clock."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable


class Skips:
    """The entries of one model that no learner learns.

    A Skip record comes after the entries that it names, so a fold over the records must know all skips before it
    starts: serving sends them to each trainer that it starts.
    """

    def __init__(self, ranges: Iterable[Iterable[int]] = ()) -> None:
        """ranges: what `pack` gave."""
        self._ranges: list[tuple[int, int]] = []
        for first, end in ranges:
            self.add(first, end)

    def add(self, first: int, end: int) -> None:
        """Add the entries first .. end - 1; does nothing if there are none."""
        if first >= end:
            return
        apart = [(a, b) for a, b in self._ranges if b < first or a > end]
        joined = [(a, b) for a, b in self._ranges if not (b < first or a > end)]
        whole = min([first, *(a for a, _ in joined)]), max([end, *(b for _, b in joined)])
        self._ranges = sorted([*apart, whole])

    def __contains__(self, offset: int) -> bool:
        at = bisect_right(self._ranges, (offset, 1 << 64)) - 1
        return at >= 0 and offset < self._ranges[at][1]

    def after(self, offset: int) -> int:
        """The first entry from `offset` on that is not skipped."""
        at = bisect_right(self._ranges, (offset, 1 << 64)) - 1
        return self._ranges[at][1] if offset in self else offset

    def pack(self) -> list[list[int]]:
        """Return [first, end] of each range, in order, for JSON."""
        return [list(span) for span in self._ranges]
