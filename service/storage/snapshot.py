"""One model's part of a snapshot: columns as they were at one moment, and the rows that they become on disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.storage.states import AnswerBlock, ModelRow, StreamRow

LINES_AT_ONCE = 1024
STORED = ("number", "epoch", "last_seq", "last_time", "origin", "last_offset", "newest")
GATHER_BYTES = 1 << 20  # of states copied in one turn of the event loop
Rows = NDArray[np.intp]


class Gathering:
    """Copies state rows as they are at one moment, piece by piece; rows that are about to change are copied first.

    rows: (n,), distinct. of: [all rows, S], read until all are copied. `states`: [n, S], the copies.
    """

    def __init__(self, rows: Rows, of: NDArray[np.float32]) -> None:
        self.states = np.empty((len(rows), of.shape[1]), np.float32)
        self._rows, self._left = rows, np.ones(len(rows), np.bool_)
        self._place = np.full(len(of), -1, np.intp)  # by row: its index in `rows`
        self._place[rows] = np.arange(len(rows))
        self._next, self._at_once = 0, max(1, GATHER_BYTES // max(1, 4 * of.shape[1]))

    @property
    def whole(self) -> bool:
        """Whether all rows are copied."""
        return self._next >= len(self._rows)

    def some(self, of: NDArray[np.float32]) -> None:
        """Copy the next `GATHER_BYTES`, without rows copied already. of: all states now; it may have grown."""
        places = np.arange(self._next, min(self._next + self._at_once, len(self._rows)))
        self._next += self._at_once
        self._copy(places, of)

    def keep(self, rows: Any, of: NDArray[np.float32]) -> None:
        """Copy these rows, one or an array: they are about to change, or to be given to another stream."""
        at = np.atleast_1d(rows)
        places = self._place[at[at < len(self._place)]]
        self._copy(places[places >= 0], of)

    def _copy(self, places: Rows, of: NDArray[np.float32]) -> None:
        places = places[self._left[places]]
        self.states[places] = of[self._rows[places]]
        self._left[places] = False


class Part(NamedTuple):
    """One model's part of a snapshot."""

    model: ModelRow
    ids: list[str]
    columns: dict[str, Any]  # of the changed streams: STORED and `judged`
    gathering: Gathering  # their states
    deleted: list[int]  # stream numbers
    block: AnswerBlock
    answers_start: int  # position of the oldest answer kept
    rewritten: bool = False  # `block` replaces all stored answers

    def streams(self) -> Iterator[StreamRow]:
        """Yield a row for each changed stream. Made one by one: all at once would be far larger than the columns."""
        c, names = (
            self.columns,
            ("number", "epoch", "last_seq", "last_time", "origin", "judged", "last_offset", "newest"),
        )
        for first in range(0, len(self.ids), LINES_AT_ONCE):
            part = slice(first, first + LINES_AT_ONCE)
            lists = [c[name][part].tolist() for name in names]
            for id, state, number, epoch, seq, time, origin, judged, offset, newest in zip(
                self.ids[part], self.gathering.states[part], *lists, strict=True
            ):
                yield StreamRow(
                    self.model.model, number, id, epoch, seq, time, origin, judged, offset, newest + 1, state.tobytes()
                )
