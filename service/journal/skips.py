"""What is left out of learning by record, and when it comes to that (DESIGN R6). Plain data, no clock."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

DEATHS = 3  # of the trainer at one place, one after the other, before what is there is skipped


class Skips:
    """The entries of one model that no learner learns.

    A Skip record stands behind the entries that it names, so that whoever folds the records must know it before it
    comes to them: serving tells each trainer that it starts.
    """

    def __init__(self, ranges: Iterable[Iterable[int]] = ()) -> None:
        """ranges: what `pack` gave."""
        self._ranges: list[tuple[int, int]] = []
        for first, end in ranges:
            self.add(first, end)

    def add(self, first: int, end: int) -> None:
        """Entries first .. end - 1 are skipped too."""
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
        """[first, end] of each range, in order; JSON can hold it."""
        return [list(span) for span in self._ranges]


class Deaths:
    """How often a trainer has died of the same pieces of the journal, each a model's next one."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}  # by position, at most one for each model

    def died(self, position: int) -> bool:
        """It died while it learned what is at a journal position; True: that piece has had its chances."""
        self._counts[position] = self._counts.get(position, 0) + 1
        return self._counts[position] >= DEATHS

    def learned(self, position: int) -> None:
        """What is there was learned after all: it is not what the process died of."""
        self._counts.pop(position, None)
