"""Who has the streams of one model open: the calls, each with a number in the table's column `owner`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from service.streams.table import Rows, StreamTable


class Owners:
    """Owners of streams in `table`, and how to wake each."""

    def __init__(self, table: StreamTable) -> None:
        self._table = table
        self._wakes: dict[int, Callable[[], None]] = {}  # by owner
        self._heeding: dict[int, Callable[[], None]] = {}  # those to wake at a verdict
        self._lasting: set[int] = set()
        self._last = 0
        self.losses = 0  # streams that owners have lost, to another owner or by deletion

    def add(self, wake: Callable[[], None], *, heeds_verdicts: bool = True, lasting: bool = False) -> int:
        """Return a new owner number. `wake` is called when a stream of this owner has progressed, or is lost.

        heeds_verdicts: also when a verdict has judged more labels, which concerns all streams of the model.
        lasting: it has streams between requests too, and pins them during one.
        """
        self._last += 1
        self._wakes[self._last] = wake
        if lasting:
            self._lasting.add(self._last)
        if heeds_verdicts:
            self._heeding[self._last] = wake
        return self._last

    def heed_verdicts(self, owner: int) -> None:
        """Wake the owner at each verdict from now on."""
        self._heeding[owner] = self._wakes[owner]

    def judged(self) -> None:
        """Wake the owners that heed verdicts."""
        for wake in list(self._heeding.values()):
            wake()

    def remove(self, owner: int) -> None:
        """Release the owner's streams: they have no owner then, and may leave memory."""
        self._wakes.pop(owner, None)
        self._heeding.pop(owner, None)
        self._lasting.discard(owner)
        t = self._table
        owned = t.owner == owner
        t.owner[owned], t.pinned[owned] = 0, False

    @property
    def open(self) -> int:
        """The number of streams in memory that have an owner."""
        return int(np.count_nonzero(self._table.owner))

    @property
    def in_calls(self) -> int:
        """The number of `open` streams without those that wait for a request."""
        t = self._table
        waiting = np.isin(t.owner, list(self._lasting)) & ~t.pinned
        return int(np.count_nonzero((t.owner != 0) & ~waiting))

    def lose(self, owner: int) -> None:
        """Count a stream that the owner has lost, and wake it to find out which."""
        self.losses += 1
        if owner in self._wakes:
            self._wakes[owner]()

    def wake(self, rows: Rows | None = None) -> None:
        """Wake the owners of these rows; None: all owners."""
        self.wake_each(list(self._wakes) if rows is None else np.unique(self._table.owner[rows]).tolist())

    def wake_each(self, owners: Iterable[int]) -> None:
        """Wake these owners, distinct; those that are gone, and 0, are skipped."""
        for owner in owners:
            if owner in self._wakes:
                self._wakes[owner]()
