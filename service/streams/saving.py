"""Snapshots of one model: what has changed since the last, and the part that the next one holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.storage.snapshot import STORED, Gathering, Part
from service.storage.states import AnswerBlock, ModelRow
from service.streams.answers import AnswerLog
from service.streams.table import ABSENT, Rows, StreamTable


class Saving:
    """Tracks the changes of one model and cuts its part of each snapshot.

    One snapshot at a time: `begin`, `gather` until it returns False, then `saved` or `failed`. Every change of a state
    row in between goes through `keep` first, so that the part holds the states of the moment of `begin`.
    """

    def __init__(self, number: int, table: StreamTable, log: AnswerLog) -> None:
        self._number, self._table, self._log = number, table, log
        self.is_changed = True  # since the last snapshot
        self._changed_models: set[int] = set()  # see `report_to`
        self.saves = 0  # snapshots of this model that are on disk, since the start
        self._deleted: list[int] = []  # stream numbers, since the last snapshot on disk
        self._rewrite = False  # the next snapshot must write the whole log of answers
        self._ids: list[str] = []  # streams in the snapshot under way
        self.gathering: Gathering | None = None  # of a snapshot under way, while some states are not copied yet
        self._saved_answers = 0  # position in the log up to which answers are on disk

    # ---- changes

    def report_to(self, changed_models: set[int]) -> None:
        """Keep this model's number in a set while the model has changes to save."""
        self._changed_models = changed_models
        if self.is_changed:
            changed_models.add(self._number)

    def change(self) -> None:
        """Note that the next snapshot must write this model."""
        self.is_changed = True
        self._changed_models.add(self._number)

    def keep(self, rows: Rows | int) -> None:
        """Copy the states of rows that are about to change, if the snapshot under way needs them."""
        if self.gathering is not None:
            self.gathering.keep(rows, self._table.state)

    def delete(self, number: int) -> None:
        """Note that a stream is deleted."""
        self._deleted.append(number)

    def deleted_among(self, numbers: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Return which of the stream numbers have been deleted since the last snapshot on disk."""
        return np.isin(numbers, self._deleted)

    def deleted_numbers(self) -> set[int]:
        """Return the streams deleted since the last snapshot on disk: states.db still holds their lines."""
        return set(self._deleted)

    def unsaved(self) -> list[str]:
        """Return ids of streams in memory that differ from disk, in no order; an id may occur twice."""
        return [self._table.ids[row] for row in self._table.changed_rows().tolist()] + self._ids

    def forget_answers(self, streams: Sequence[int]) -> None:
        """Remove the ticks and answers of deleted streams from the log; the next snapshot writes all of it."""
        self._log.forget(streams)
        self._rewrite = True
        self.change()

    # ---- one snapshot

    def begin(self, model: ModelRow, judged: Callable[[Rows], NDArray[np.uint64]]) -> Part:
        """Begin a snapshot: return the model's part, complete but for the states, which `gather` copies.

        judged: the judged_through of rows.
        """
        t, rows = self._table, self._table.changed_rows()
        self.is_changed = False
        self._changed_models.discard(self._number)
        t.changed[rows] = False
        self._ids = list(itemgetter(*rows.tolist())(t.ids)) if len(rows) > 1 else [t.ids[row] for row in rows]
        columns: dict[str, Any] = {name: getattr(t, name)[rows] for name in STORED}
        self.gathering = Gathering(rows, t.state)
        columns["judged"] = judged(rows)
        first, data = self._log.pack(0 if self._rewrite else self._saved_answers)
        block = AnswerBlock(self._number, first, self._log.end, data)
        return Part(
            model, self._ids, columns, self.gathering, list(self._deleted), block, self._log.start, self._rewrite
        )

    def gather(self) -> bool:
        """Copy some more states of the snapshot under way; returns whether there are more."""
        if self.gathering is not None:
            self.gathering.some(self._table.state)
            if self.gathering.whole:
                self.gathering = None
        return self.gathering is not None

    def saved(self, part: Part) -> None:
        """Note that the part is on disk."""
        self.saves += 1
        self._saved_answers, self._ids = part.block.end, []
        self._rewrite = self._rewrite and not part.rewritten
        self._deleted = self._deleted[len(part.deleted) :]

    def failed(self, part: Part) -> None:
        """Note that the part is not on disk: the next snapshot must write its streams."""
        self.change()
        rows = self._table.rows_of(part.columns["number"])
        self._table.changed[rows[rows != ABSENT]] = True
        self._ids, self.gathering = [], None

    def restored(self) -> None:
        """Note that the model, and all answers in its log, come from disk."""
        self.is_changed = False
        self._saved_answers = self._log.end
