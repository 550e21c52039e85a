"""How much of the journal is kept once nothing needs it: whole segments go, the oldest first (R1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class ClosedSegment(NamedTuple):
    """A file that takes no more entries."""

    end: int  # position after its last frame
    size: int  # bytes on disk
    closed: float  # when it was last written, seconds since 1970


def droppable(
    closed: Sequence[ClosedSegment], size: int, needed: int, keep_bytes: int, keep_s: float, now: float
) -> int:
    """How many of the oldest segments may go.

    closed: oldest first; size: bytes of all segments, the open one too; needed: the oldest position that anybody may
    still read, which nothing overrides; now: seconds since 1970. A segment goes once the journal is larger than
    `keep_bytes` or it has been closed for longer than `keep_s`.
    """
    for n, segment in enumerate(closed):
        wanted = size <= keep_bytes and now - segment.closed <= keep_s
        if wanted or segment.end > needed:
            return n
        size -= segment.size
    return len(closed)


def is_held_too_long(end: int, first: int, checkpoint: int, cap_bytes: int) -> bool:
    """Whether the trainer has not saved more of the journal than may be kept for it (R6).

    end, first: of the journal, positions; checkpoint: the position that the trainer's last one contains, 0 for none.
    """
    return end - max(first, checkpoint) > cap_bytes
