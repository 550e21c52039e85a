"""What a model has to do with slices: a fold over Slice and Gathered records.

The streams of a large model may be spread over several shards: each has a *slice*, a model that serves and does not
learn. Their entries are gathered in the journal of the shard that learns. The order in which they stand there is the
order of learning; a Gathered record, in the same commit, says up to where a slice has been read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from service.journal.records import Gathered, Slice

MAX_MARKS = 4096  # gathered batches that no verdict contains yet; beyond, the oldest count as judged later


class Cursor(NamedTuple):
    """Up to where a slice has been read."""

    model: int  # its number in its shard
    position: int  # of the shard's journal
    chain: int  # at that position
    offset: int  # entries of the slice


class Slices:
    """part: what this model is a slice of, None: of nothing. count: slices that are gathered here, 0: none. cursors: by
    slice."""

    def __init__(self, packed: Mapping[str, Any] | None = None) -> None:
        """packed: as `pack` returns."""
        facts = packed or {}
        self.part = Slice(*facts["part"]) if "part" in facts else None
        self.count = int(facts.get("count", 0))
        self.cursors = {int(n): Cursor(*cursor) for n, cursor in facts.get("cursors", {}).items()}
        self._judged = {int(n): int(offset) for n, offset in facts.get("judged", {}).items()}
        self._marks = deque((tuple(mark) for mark in facts.get("marks", ())), MAX_MARKS)

    def apply(self, record: Slice | Gathered, offset: int) -> None:
        """Apply a record. offset: the journal's, just after it."""
        if isinstance(record, Slice):
            self.part = record
            return
        self.count = record.count
        if record.model:
            cursor = Cursor(record.model, record.position, record.chain, record.offset)
            if self.cursors.get(record.slice, cursor).offset != cursor.offset or record.slice not in self.cursors:
                self._marks.append((offset, record.slice, record.offset))
            self.cursors[record.slice] = cursor

    def judged(self, offset: int) -> dict[int, int]:
        """Return, by slice, how many of its entries are among the first `offset` here. It must not fall."""
        while self._marks and self._marks[0][0] <= offset:
            _, part, entries = self._marks.popleft()
            self._judged[part] = entries
        return dict(self._judged)

    def pack(self) -> dict[str, Any]:
        """Return the constructor's argument, for JSON; empty for a model without slices."""
        if self.part:
            return {"part": [self.part.index, self.part.count, self.part.home]}
        if not self.count:
            return {}
        return {"count": self.count, "cursors": self.cursors, "judged": self._judged, "marks": [*self._marks]}
