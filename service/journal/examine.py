"""Find how far the files of a journal are intact; opening, checking and repairing share this decision.

A broken frame without a later commit is the torn tail of a commit that was never acknowledged. Any other change of what
was written is damage, and nothing after damage is trusted. Everything here only reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from service.journal.segments import (
    FRAME,
    MAX_PAYLOAD,
    SUFFIX,
    Frame,
    JournalDamaged,
    JournalFormat,
    Segment,
    find_later_commit,
    read_header,
)


class Examined(NamedTuple):
    """The intact part of a journal, and the first damage."""

    segments: tuple[Segment, ...]  # in order; only the last of them may be broken somewhere
    end: int  # position after the last intact frame
    chain: int  # at `end`
    last_commit: int  # position where the last commit of the last segment begins (`end` if it has none)
    torn_bytes: int  # after `end`, left by a crash
    damage: JournalDamaged | None
    broken: tuple[Path, ...]  # files that are damaged, or come after damage

    def frames(self) -> Iterator[Frame]:
        """Yield the intact frames, in order."""
        for i, segment in enumerate(self.segments):
            stop = self.end if i + 1 == len(self.segments) else segment.start + segment.size()
            yield from segment.frames(segment.start, segment.chain, stop)


def segment_files(directory: Path) -> list[Path]:
    """Return the journal's files, in order of position."""
    return sorted(directory.glob(f"*{SUFFIX}"))


def examine(directory: Path) -> Examined:
    """Check every frame up to the first broken one. Raises JournalFormat, OSError."""
    return examine_files(segment_files(directory), read_header)


def examine_files(paths: Sequence[Path], read: Callable[[Path], Segment]) -> Examined:
    """As `examine`, for these files of one journal, in order of position. read: opens one, as `read_header` does."""
    found = Examined((), 0, 0, 0, 0, None, ())
    for i, path in enumerate(paths):
        try:
            segment = read(path)
        except JournalFormat:
            raise
        except JournalDamaged as error:
            return found._replace(damage=error, broken=tuple(paths[i:]))
        if found.segments and (segment.start, segment.chain) != (found.end, found.chain):
            what = f"it does not continue the segment before it, which ends at {found.end}"
            damage = segment.damaged(segment.start, what)
            return found._replace(damage=damage, broken=tuple(paths[i:]))
        scan = segment.scan()
        rest = segment.size() - (scan.end - segment.start)
        found = Examined((*found.segments, segment), *scan, 0, None, ())
        if rest:
            what = _damage(segment, scan.end) if path == paths[-1] else "the frame there is broken, segments follow"
            if what:
                return found._replace(damage=segment.damaged(scan.end, what), broken=tuple(paths[i:]))
            found = found._replace(torn_bytes=rest)
    return found


def salvage(path: Path, position: int | None) -> Iterator[bytes]:
    """Yield encoded chunks that can still be read in a broken file, from `position` on (None: from its start).

    Only to report what is lost: the first chunk of each run is not verified, as the chain before it is broken.
    """
    try:
        segment = read_header(path)
    except JournalDamaged:
        return
    at = segment.start if position is None else position
    chain, end = segment.chain, segment.start + segment.size()
    while True:
        for frame in segment.frames(at, chain, end):
            yield frame.payload
            at = frame.end
        tail = _tail(segment, at)
        later = find_later_commit(tail)
        if later is None:
            return
        word, chain = FRAME.unpack_from(tail, later)
        payload = later + FRAME.size
        yield tail[payload : payload + (word & MAX_PAYLOAD)]
        at += payload + (word & MAX_PAYLOAD)


def _damage(segment: Segment, end: int) -> str:
    """Why the bytes after `end` of the last segment are not a torn tail; empty if they are."""
    later = find_later_commit(_tail(segment, end))
    if later is None:
        return ""
    return f"the frame there is broken, a later commit follows at {segment.file_offset(end) + later}"


def _tail(segment: Segment, position: int) -> bytes:
    with segment.open() as file:
        file.seek(segment.file_offset(position))
        return file.read(segment.start + segment.size() - position)
