"""How much of the journal is kept after nothing needs it: whole segments are deleted, the oldest first (R1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class ClosedSegment(NamedTuple):
    """A complete segment: no more entries are added."""

    end: int  # position after its last frame
    size: int  # bytes on disk
    closed: float  # when it was last written, seconds since 1970


def droppable(
    closed: Sequence[ClosedSegment], size: int, needed: int, keep_bytes: int, keep_s: float, now: float
) -> int:
    """Return how many of the oldest segments may be deleted.

    closed: oldest first. size: bytes of all segments, including the open one. needed: the oldest position that may
    still be read; segments after it are always kept. now: seconds since 1970. A segment may be deleted once the journal
    is larger than `keep_bytes` or it has been closed for longer than `keep_s`.
    """
    for n, segment in enumerate(closed):
        wanted = size <= keep_bytes and now - segment.closed <= keep_s
        if wanted or segment.end > needed:
            return n
        size -= segment.size
    return len(closed)


def is_held_too_long(end: int, first: int, checkpoint: int, cap_bytes: int) -> bool:
    """Whether more of the journal is unsaved by the trainer than may be kept for it (R6).

    end, first: positions, of the journal. checkpoint: position of the trainer's last checkpoint, 0 for none.
    """
    return end - max(first, checkpoint) > cap_bytes
