"""One model's part of a snapshot: columns as they were at one moment, and the lines that they become on disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from service.storage.states import AnswerBlock, ModelRow, StreamRow

LINES_AT_ONCE = 1024
STORED = ("number", "epoch", "last_seq", "last_time", "origin", "last_offset", "newest", "state")


class Part(NamedTuple):
    """One model's part of a snapshot."""

    model: ModelRow
    ids: list[str]
    columns: dict[str, Any]  # of the changed streams: STORED and judged
    deleted: list[int]  # stream numbers
    block: AnswerBlock
    answers_start: int  # position of the oldest answer kept
    rewritten: bool = False  # `block` is all of them, in place of what is stored

    def streams(self) -> Iterator[StreamRow]:
        """A line for each changed stream, made as they are taken: all at once would be far larger than the columns."""
        c, names = (
            self.columns,
            ("number", "epoch", "last_seq", "last_time", "origin", "judged", "last_offset", "newest"),
        )
        for first in range(0, len(self.ids), LINES_AT_ONCE):
            part = slice(first, first + LINES_AT_ONCE)
            lists = [c[name][part].tolist() for name in names]
            for id, state, number, epoch, seq, time, origin, judged, offset, newest in zip(
                self.ids[part], c["state"][part], *lists, strict=True
            ):
                yield StreamRow(
                    self.model.model, number, id, epoch, seq, time, origin, judged, offset, newest + 1, state.tobytes()
                )
