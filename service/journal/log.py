"""The segment files as one log: owned by one process, verified on opening, written by whole commits, read by position.

Everything here blocks; `Journal` is its asyncio front.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from service.journal.examine import Examined, examine
from service.journal.records import Chunk, RecordError, decode_chunk
from service.journal.retention import ClosedSegment
from service.journal.segments import HEADER, JournalDamaged, Segment, create_segment, encode_commit
from service.storage.disk import NoSpace, needing_space, sync_directory

LOCK_NAME = "lock"
REPLAY_BYTES = 1 << 20
MAX_READERS = 4  # whose last positions are remembered
QUICK_BYTES = 1 << 14  # a commit of more is encoded and written beside the event loop


class JournalLocked(RuntimeError):
    """Another process owns the journal directory. Names its process id."""


class Staged(NamedTuple):
    """A commit that is written and not synced: position and chain after it."""

    end: int
    chain: int


class SegmentLog:
    """Owns a journal directory. One thread writes; others may read at the same time."""

    def __init__(self, directory: Path, segment_bytes: int, start: tuple[int, int] = (0, 0)) -> None:
        """Lock the directory, created if needed, and verify every frame.

        start: position and chain at which a new journal begins; an existing one stays as it is. The torn tail that a
        crash leaves is cut off (`truncated_bytes`). Raises JournalLocked; JournalDamaged for damage that no crash
        explains.
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
            self._segments = list(found.segments) or [create_segment(directory, *start)]
            if not found.segments:
                found = found._replace(end=start[0], chain=start[1], last_commit=start[0])
            self._fd = os.open(self._segments[-1].path, os.O_RDWR | os.O_CLOEXEC)
            self._repair_tail(found)
        except BaseException:
            self.close()
            raise
        self.end, self.chain = found.end, found.chain
        # Where the last reads ended, and the chains there: a reader that continues does not scan its segment again.
        self._cursors: tuple[tuple[int, int], ...] = ((self.end, self.chain),)

    @property
    def start(self) -> int:
        """Position of the oldest frame that is kept."""
        return self._segments[0].start

    def write(self, payloads: Sequence[bytes]) -> int:
        """Append one commit: a frame per payload, one write, one fdatasync; `end` advances after it.

        Returns `end`. Raises NoSpace: nothing is written, and the same commit may be written again. Raises OSError: the
        commit may be written in part or not at all, and `write` must not be called again.
        """
        return self.sync(self.stage(payloads))

    def stage(self, payloads: Sequence[bytes]) -> Staged:
        """Write one commit without making it durable: readers do not see it before `sync`, which must come next.

        Raises as `write`.
        """
        return self._put(*encode_commit(payloads, self.chain))

    def sync(self, staged: Staged) -> int:
        """Make a staged commit durable; returns `end`, which has advanced. Raises OSError, as `write`."""
        os.fdatasync(self._fd)
        self.end, self.chain = staged
        return self.end

    def stages_quickly(self, size: int) -> bool:
        """Whether `stage` of about so many bytes only copies them into the page cache: the segment has room left."""
        return size <= QUICK_BYTES and self.end - self._segments[-1].start < self._segment_bytes

    def put(self, frames: bytes, chain: int) -> None:
        """Append the frames of a commit, encoded after the present chain, without syncing; the chain after them is
        `chain`. A power failure may leave what looks like damage. Raises as `write`."""
        self.end, self.chain = self._put(frames, chain)

    def _put(self, frames: bytes, chain: int) -> Staged:
        if self.end - self._segments[-1].start >= self._segment_bytes:
            self._begin_segment()
        at = self._segments[-1].file_offset(self.end)
        try:
            with needing_space(str(self._segments[-1].path)):
                _write_all(self._fd, frames, at)
        except NoSpace:
            os.ftruncate(self._fd, at)  # the part that found room
            raise
        return Staged(self.end + len(frames), chain)

    def begin_segment(self) -> int:
        """Begin a new segment, unless the last one is empty; return its position.

        Must not run concurrently with `write`. Raises NoSpace, OSError: nothing has changed then.
        """
        if self.end > self._segments[-1].start:
            self._begin_segment()
        return self.end

    def read(self, position: int, max_bytes: int) -> list[tuple[int, bytes]]:
        """Return frames from `position` on as (position after the frame, payload), verified; empty at the end.

        At most `max_bytes` of payload, but at least one frame. Raises JournalDamaged if the frames are not as
        written, or `position` is not the boundary of a kept frame.
        """
        end = self.end
        if position > end:
            raise JournalDamaged(
                f"{self._directory}: the journal ends at {end}, before position {position}: it is older than the "
                "data stored with that position. Restore both from the same moment"
            )
        if position < self.start:
            raise JournalDamaged(
                f"{self._directory}: the journal begins at position {self.start}; position {position} is dropped. "
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

    def chunks(self, position: int) -> Iterator[tuple[int, Chunk]]:
        """Yield every chunk from `position` to the end, with the position after it. Raises as `read`."""
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
        """Delete the segments that end at or before `position`, oldest first; return their number. Raises OSError."""
        dropped = 0
        while len(self._segments) > 1 and self._segments[1].start <= position:
            self._segments[0].path.unlink()
            sync_directory(self._directory)  # after each: a power failure must not leave a gap
            with self._changing:
                self._segments = self._segments[1:]
            dropped += 1
        return dropped

    def closed_segments(self) -> list[ClosedSegment]:
        """Return all segments but the one being written, oldest first. Raises OSError."""
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
        """Close the files and release the lock."""
        for fd in (self._fd, self._lock):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock = -1

    def _remember(self, began: int, at: int, chain: int) -> None:
        """Remember that a read from `began` ended at `at`, in place of the read that ended at `began`. Two threads may
        lose one of their positions, which costs the reader a scan."""
        others = [cursor for cursor in self._cursors if cursor[0] not in (began, at)]
        self._cursors = ((at, chain), *others[: MAX_READERS - 1])

    def _repair_tail(self, found: Examined) -> None:
        """Cut off a torn tail, and write the last commit again: after a crash or a failed sync it may be in the page
        cache only, marked clean, so that a sync alone would not write it."""
        segment = self._segments[-1]
        torn_at, begin = segment.file_offset(found.end), segment.file_offset(found.last_commit)
        os.ftruncate(self._fd, torn_at)
        self.truncated_bytes = found.torn_bytes
        _write_all(self._fd, os.pread(self._fd, torn_at - begin, begin), begin)
        os.fdatasync(self._fd)

    def _begin_segment(self) -> None:
        segment = create_segment(self._directory, self.end, self.chain)
        fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
        os.close(self._fd)
        self._fd = fd
        with self._changing:
            self._segments = [*self._segments, segment]

    def _segment_at(self, position: int, end: int) -> tuple[Segment, int]:
        """Return the segment with the frame at `position`, and the position where it ends (`end` for the last)."""
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
        raise segment.damaged(position, "this is not a frame boundary")


def lock(directory: Path) -> int:
    """Lock the directory until the returned descriptor is closed; a forked child must not keep it.

    Raises JournalLocked, which names the owner's process id; OSError, also if the lock file is a link.
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
