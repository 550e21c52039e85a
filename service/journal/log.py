"""The segment files as one log: owned by one process, verified when opened, written by whole commits, read by position.

Everything here blocks; `Journal` puts asyncio around it.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from service.journal.examine import Examined, examine
from service.journal.records import Chunk, RecordError, decode_chunk
from service.journal.retention import ClosedSegment
from service.journal.segments import COMMIT_FIRST, HEADER, MAX_PAYLOAD, JournalDamaged, Segment, create_segment
from service.storage.disk import NoSpace, needing_space, sync_directory

LOCK_NAME = "lock"
REPLAY_BYTES = 1 << 20
MAX_READERS = 4  # that go on where they stopped


class JournalLocked(RuntimeError):
    """Another process owns the journal directory. Names its process id."""


class SegmentLog:
    """Owns a journal directory. One thread writes; others may read at the same time."""

    def __init__(self, directory: Path, segment_bytes: int) -> None:
        """Lock the directory, making it if needed, and verify every frame.

        What a crash left of the last commit is cut off (`truncated_bytes`). Raises JournalLocked; JournalDamaged
        for anything that no crash explains.
        """
        if segment_bytes < 1:
            raise ValueError(f"segment_bytes must be at least 1, got {segment_bytes}")
        self._directory, self._segment_bytes = directory, segment_bytes
        self.truncated_bytes = 0
        self._changing = threading.Lock()  # the list of segments: one thread appends to it, another drops
        self._fd = -1
        directory.mkdir(0o700, parents=True, exist_ok=True)
        sync_directory(directory.parent)
        self._lock = lock(directory)
        try:
            for unfinished in directory.glob("*.tmp"):  # an interrupted `create_segment`
                unfinished.unlink()
            found = examine(directory)
            if found.damage:
                raise found.damage
            self._segments = list(found.segments) or [create_segment(directory, 0, 0)]
            self._fd = os.open(self._segments[-1].path, os.O_RDWR | os.O_CLOEXEC)
            self._settle(found)
        except BaseException:
            self.close()
            raise
        self.end, self._chain = found.end, found.chain
        # Where the last reads ended, and the chains there: readers that go on do not scan a segment per read.
        self._cursors: tuple[tuple[int, int], ...] = ((self.end, self._chain),)

    @property
    def start(self) -> int:
        """Position of the oldest frame that is kept."""
        return self._segments[0].start

    def write(self, payloads: Sequence[bytes]) -> int:
        """Append one commit: a frame per payload, one write, one fdatasync; `end` advances after it.

        Returns `end`. Raises NoSpace: nothing of it is there, the same may be written again. Raises OSError: then
        nothing may be taken as written, and `write` must not be called again.
        """
        frames, chain = bytearray(), self._chain
        for payload in payloads:
            if not 0 < len(payload) <= MAX_PAYLOAD:
                raise ValueError(f"a frame holds 1 to {MAX_PAYLOAD} bytes, got {len(payload)}")
            word = (len(payload) | (0 if frames else COMMIT_FIRST)).to_bytes(4, "little")
            chain = zlib.crc32(payload, zlib.crc32(word, chain))
            frames += word + chain.to_bytes(4, "little")
            frames += payload
        if self.end - self._segments[-1].start >= self._segment_bytes:
            self._begin_segment()
        at = self._segments[-1].file_offset(self.end)
        try:
            with needing_space(str(self._segments[-1].path)):
                _write_all(self._fd, frames, at)
        except NoSpace:
            os.ftruncate(self._fd, at)  # the part that found room
            raise
        os.fdatasync(self._fd)
        self._chain = chain
        self.end += len(frames)
        return self.end

    def begin_segment(self) -> int:
        """What is written from here on goes into a new segment; the position where that begins.

        Must not run beside `write`. Raises NoSpace, OSError: nothing has changed then.
        """
        if self.end > self._segments[-1].start:
            self._begin_segment()
        return self.end

    def read(self, position: int, max_bytes: int) -> list[tuple[int, bytes]]:
        """Frames from `position` as (position after the frame, payload), checked; empty at the end.

        At most `max_bytes` of payload, but at least one frame. Raises JournalDamaged if the frames are not as
        written, or `position` is not a frame boundary that is kept.
        """
        end = self.end
        if position > end:
            raise JournalDamaged(
                f"{self._directory}: the journal ends before position {position}, at {end}: it is older than what "
                "was stored with that position. Restore both from the same moment"
            )
        if position < self.start:
            raise JournalDamaged(
                f"{self._directory}: the journal begins at position {self.start}, what was at {position} is dropped. "
                "Restore it, or start from a newer snapshot"
            )
        found: list[tuple[int, bytes]] = []
        began, chain, size = position, 0, 0
        while position < end:
            segment, stop = self._segment_at(position, end)
            at = position
            for frame in segment.frames(position, self._chain_at(segment, position), stop):
                size += len(frame.payload)
                if found and size > max_bytes:
                    self._remember(began, at, chain)
                    return found
                found.append((frame.end, frame.payload))
                at, chain = frame.end, frame.chain
            if at != stop:
                raise segment.damaged(at, "the frame there is no longer as it was written")
            position = stop
        if found:
            self._remember(began, position, chain)
        return found

    def replay(self, position: int) -> Iterator[tuple[int, Chunk]]:
        """Every chunk from `position` to the end, with the position after it. Raises as `read`."""
        while frames := self.read(position, REPLAY_BYTES):
            for end, payload in frames:
                try:
                    chunk = decode_chunk(payload)
                except RecordError as error:
                    segment, _ = self._segment_at(position, self.end)
                    raise segment.damaged(position, f"a checksummed frame holds no chunk ({error})") from error
                yield end, chunk
                position = end

    def drop_before(self, position: int) -> int:
        """Delete the segments that lie wholly before `position`, oldest first; returns how many. Raises OSError."""
        dropped = 0
        while len(self._segments) > 1 and self._segments[1].start <= position:
            self._segments[0].path.unlink()
            sync_directory(self._directory)  # each: a power cut must not leave a hole
            with self._changing:
                self._segments = self._segments[1:]
            dropped += 1
        return dropped

    def closed_segments(self) -> list[ClosedSegment]:
        """All but the one that is written, oldest first. Raises OSError."""
        found = []
        for segment, following in itertools.pairwise(self._segments):
            stat = segment.path.stat()
            found.append(ClosedSegment(following.start, stat.st_size, stat.st_mtime))
        return found

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return self.end - self.start + HEADER.size * len(self._segments)

    def close(self) -> None:
        """Close the files and let go of the directory."""
        for fd in (self._fd, self._lock):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock = -1

    def _remember(self, began: int, at: int, chain: int) -> None:
        """A read from `began` ended at `at`: it replaces the read that ended there. Of two at once one may be lost,
        which costs its reader a scan."""
        others = [cursor for cursor in self._cursors if cursor[0] not in (began, at)]
        self._cursors = ((at, chain), *others[: MAX_READERS - 1])

    def _settle(self, found: Examined) -> None:
        """Cut off a torn end, and write the last commit again: a crash, or a sync that failed, may have left it in
        the page cache only, and there a sync alone would not write it."""
        segment = self._segments[-1]
        torn_at, begin = segment.file_offset(found.end), segment.file_offset(found.last_commit)
        os.ftruncate(self._fd, torn_at)
        self.truncated_bytes = found.torn_bytes
        _write_all(self._fd, os.pread(self._fd, torn_at - begin, begin), begin)
        os.fdatasync(self._fd)

    def _begin_segment(self) -> None:
        segment = create_segment(self._directory, self.end, self._chain)
        fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
        os.close(self._fd)
        self._fd = fd
        with self._changing:
            self._segments = [*self._segments, segment]

    def _segment_at(self, position: int, end: int) -> tuple[Segment, int]:
        """The segment that holds the frame at `position`, and the position where it stops (`end` in the last)."""
        segments = self._segments
        for segment, following in itertools.pairwise(segments):
            if position < following.start:
                return segment, min(following.start, end)
        return segments[-1], end

    def _chain_at(self, segment: Segment, position: int) -> int:
        known = [cursor for cursor in self._cursors if segment.start < cursor[0] <= position]
        at, chain = max(known, default=(segment.start, segment.chain))
        if at == position:
            return chain
        for frame in segment.frames(at, chain, position):
            if frame.end == position:
                return frame.chain
        raise segment.damaged(position, "that is no frame boundary")


def lock(directory: Path) -> int:
    """Take the directory for this process, until the descriptor is closed; a forked child must not keep it.

    Raises JournalLocked, which names the process that has it; OSError, also for a link, whose other end is not ours.
    """
    fd = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(fd, 32, 0).decode(errors="replace").strip()
        os.close(fd)
        raise JournalLocked(
            f"{directory / LOCK_NAME}: in use by process {owner or 'unknown'}: stop it, or use another directory"
        ) from error
    try:
        with needing_space(str(directory / LOCK_NAME)):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write_all(fd: int, data: bytes | bytearray, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
