"""The journal: the append-only record of everything that affects state or learning (R1, R3), with group commits.

`append` never waits: it numbers the entry and leaves it to `run`, which writes all pending entries as one commit and
syncs it. Entries that arrive meanwhile form the next commit. Only `on_commit` acknowledges an entry. A small commit is
written here, into the page cache, and only synced in the writer's thread: a hop with the bytes costs more than they do.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
import time as clocks
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from service.common.beside import Beside
from service.journal.log import JournalLocked, SegmentLog, Staged
from service.journal.pending import PendingChunk
from service.journal.records import F32, U32, U32_MAX, U64, U64_MAX, Chunk, Record, RecordError
from service.journal.retention import droppable
from service.journal.segments import FRAME, JournalDamaged
from service.storage.disk import NoSpace, again_s

__all__ = ["Commit", "CommittedChunk", "Journal", "JournalDamaged", "JournalFailed", "JournalLocked"]

_F32 = np.dtype(np.float32)
# A write into the page cache that takes this long has waited for a disk: for a while, the thread waits instead.
BLOCKED_S, WARY_S = 0.005, 10.0


class JournalFailed(RuntimeError):
    """A write or sync failed, or the writer has ended: no more entries are accepted. A restart recovers from the files.

    A failed sync is never retried: the kernel may have dropped the data and would report success. (A full disk is
    different: see `Journal.no_space`.)
    """


class CommittedChunk(NamedTuple):
    """The entries of one model in a commit."""

    model: int
    first_offset: int
    end_offset: int  # logical offset after the last entry
    streams: U32  # of its ticks, in order
    seqs: U64  # of its ticks; if a stream repeats, its last value is the highest
    labels: int  # labels and windows among its entries


class Commit(NamedTuple):
    """One group commit that is on disk."""

    position: int  # after its last frame
    seconds: float  # from taking the entries to the sync's return
    lag: float  # seconds from the oldest entry's append to the sync's return
    chunks: tuple[CommittedChunk, ...]
    frames: tuple[tuple[int, bytes], ...]  # as `Journal.read` returns them


class Journal:
    """The one writer of a journal directory, and its reader.

    All methods but `read` and `chunks` belong to the event loop's thread; syncing, and writing what is large, run in a
    thread of their own. Listeners in `on_commit` get each commit once it is durable; each updates its own data only, so
    their order does not matter.
    """

    def __init__(self, log: SegmentLog, clock: Callable[[], float] = clocks.perf_counter) -> None:
        """Take ownership of `log`; most callers use `open`. clock: seconds, only for the times in a `Commit`."""
        self._log, self._clock = log, clock
        self.on_commit: list[Callable[[Commit], None]] = []
        self.learn_every_of: Callable[[int], int] = lambda model: 1
        self.pace_s = 0.0  # shortest time between the starts of two commits: each costs CPU, however small
        self.failure: JournalFailed | None = None
        self.no_space: NoSpace | None = None  # set while the commit in flight waits for disk space
        self.on_full: list[Callable[[NoSpace | None], None]] = []  # at each failed try; None once there is space
        self._tries, self._room = 0, asyncio.Event()
        self._pending: dict[int, PendingChunk] = {}  # by model, in order of first append
        self._oldest = 0.0  # clock seconds at the first append of the pending entries
        self._in_flight: list[PendingChunk] = []
        self._encoded: list[bytes] = []  # those, once they are written
        self._in_flight_oldest = 0.0
        self._ends: dict[int, int] = {}  # logical offset after the entries committed or in flight
        self._durable: dict[int, int] = {}
        self._durable_position = log.end
        self._work = asyncio.Event()
        self._commits_begun = 0
        # (awaited commit, future, whether a full disk ends the wait)
        self._waiters: list[tuple[int, asyncio.Future[None], bool]] = []
        self._writer = Beside("journal")
        self._begins_segment = 0  # waits of `begin_segment` for the thread
        self._wary_until = 0.0  # clock seconds
        self._held: list[int] = []  # positions that readers need
        self._retaining = threading.Lock()

    @classmethod
    def open(cls, directory: str | os.PathLike[str], *, segment_bytes: int = 64 << 20) -> Journal:
        """Open the journal in `directory`, created if needed, for this process alone; verify every frame.

        A segment is closed once it holds `segment_bytes`. Raises JournalLocked, JournalDamaged, OSError.
        """
        return cls(SegmentLog(Path(directory), segment_bytes))

    @property
    def durable_position(self) -> int:
        """Position after the last durable frame."""
        return self._durable_position

    @property
    def first_position(self) -> int:
        """Position of the oldest frame."""
        return self._log.start

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return self._log.size

    @property
    def truncated_bytes(self) -> int:
        """Bytes of a torn tail that `open` cut off."""
        return self._log.truncated_bytes

    @property
    def pending_entries(self) -> int:
        """Entries appended and not yet durable."""
        return sum(chunk.count for chunk in (*self._in_flight, *self._pending.values()))

    @property
    def pending_bytes(self) -> int:
        """Bytes appended and not yet durable, without frame and chunk headers."""
        return sum(chunk.size for chunk in (*self._in_flight, *self._pending.values()))

    def offset(self, model: int) -> int:
        """Return the model's logical end: entries appended so far, durable or not."""
        pending = self._pending.get(model)
        return pending.end if pending else self._ends.get(model, 0)

    def durable_offset(self, model: int) -> int:
        """Return the model's logical end on disk."""
        return self._durable.get(model, 0)

    def start_offset(self, model: int, offset: int) -> None:
        """Set, after recovery, the number of the model's entries. Raises ValueError if entries are pending."""
        if model in self._pending or any(chunk.model == model for chunk in self._in_flight):
            raise ValueError(f"model {model} has entries pending: start_offset comes before the first append")
        self._ends[model] = self._durable[model] = offset

    def append(self, model: int, record: Record) -> int:
        """Append a record, copied; return the model's logical offset just after it.

        Raises RecordError for one that cannot be written, JournalFailed once the journal has failed or is closed.
        """
        chunk = self._pending.get(model) or self._new_chunk(model)
        chunk.add(record)
        return self._added(chunk)

    def append_tick(self, model: int, stream: int, seq: int, time: float, x: F32) -> int:
        """Append one tick, faster than `append`. x: (C,) float32, copied; time: seconds or NaN. Raises as `append`."""
        if x.dtype != _F32 or x.ndim != 1 or not x.size or not 0 <= stream <= U32_MAX or not 0 <= seq <= U64_MAX:
            raise RecordError(
                f"tick: expected stream u32, seq u64, x (C,) float32; got {stream}, {seq}, {x.dtype} {x.shape}"
            )
        chunk = self._pending.get(model) or self._new_chunk(model)
        chunk.add_tick(stream, seq, float(time), x.tobytes())
        return self._added(chunk)

    async def run(self) -> None:
        """Commit pending entries until cancelled; then commit the rest, if there is disk space, and end.

        A commit that finds the disk full is retried until it succeeds. Raises JournalFailed if a commit fails for
        another reason. Afterwards nothing can be appended.
        """
        try:
            while True:
                await self._work.wait()
                started = self._clock()
                await self._commit()
                while self.no_space:
                    await self._until_room(again_s(self._tries))
                    await self._commit()
                await asyncio.sleep(self.pace_s - (self._clock() - started))
        except asyncio.CancelledError:
            while (self._in_flight or self._pending) and not self.failure:
                await self._commit()
                if self.no_space:
                    break
            raise
        finally:
            self._fail(JournalFailed("the journal's writer has ended"))

    async def flush(self, *, unless_full: bool = False) -> None:
        """Wait until everything appended so far is durable; `run` does the work.

        unless_full: return early if the disk is full. Raises JournalFailed.
        """
        if unless_full and self.no_space:
            return
        if self._pending or self._in_flight:
            done = asyncio.get_running_loop().create_future()
            self._waiters.append((self._commits_begun + bool(self._pending), done, unless_full))
            await done
        elif self.failure:
            raise JournalFailed(str(self.failure))

    def read(self, position: int, max_bytes: int) -> list[tuple[int, bytes]]:
        """Return durable frames from `position` on as (position after the frame, encoded chunk), verified.

        At most `max_bytes` of chunks, but at least one; empty at the end. Raises JournalDamaged if they are not as
        written, if `position` is not a boundary, or if it is after the end or before the first frame. Blocks: it reads
        files, and all of a segment up to `position` unless a former `read` ended there.
        """
        return self._log.read(position, max_bytes)

    def chunks(self, position: int) -> Iterator[tuple[int, Chunk]]:
        """Yield every durable chunk from `position` on, with the position after it. Raises as `read`."""
        return self._log.chunks(position)

    @contextlib.contextmanager
    def held(self) -> Iterator[int]:
        """Yield the oldest position; nothing from there on is deleted until the block ends."""
        with self._retaining:
            position = self.first_position
            self._held.append(position)
        try:
            yield position
        finally:
            self._held.remove(position)

    async def begin_segment(self) -> int:
        """Commit pending entries and begin a new segment; return its position.

        Raises NoSpace, OSError, JournalFailed.
        """
        await self.flush(unless_full=True)
        if self.no_space:
            raise NoSpace(str(self.no_space))
        self._begins_segment += 1
        try:
            return await self._writer.submit(self._log.begin_segment)
        finally:
            self._begins_segment -= 1

    async def retain(self, needed: int, keep_bytes: int, keep_s: float, now: float) -> int:
        """Delete the segments that `droppable` selects, but none that is `held`, nor the last; return their number.

        Raises OSError.
        """
        dropped = await asyncio.to_thread(self._drop, needed, keep_bytes, keep_s, now)
        if dropped:
            self._room.set()
        return dropped

    def close(self) -> None:
        """Release the directory after `run` has ended. Entries that are still pending are not written."""
        self._writer.close()
        self._log.close()
        self._fail(JournalFailed("the journal is closed"))

    def _new_chunk(self, model: int) -> PendingChunk:
        if self.failure:
            raise JournalFailed(str(self.failure))
        if not 0 <= model <= U32_MAX:
            raise RecordError(f"model {model} is not in 0..{U32_MAX}")
        return PendingChunk(model, self._ends.get(model, 0))

    def _added(self, chunk: PendingChunk) -> int:
        if chunk.model not in self._pending:  # only after its first entry was accepted: no chunk is empty
            if not self._pending:
                self._oldest = self._clock()
            self._pending[chunk.model] = chunk
            self._work.set()
        return chunk.offset + chunk.count

    async def _until_room(self, seconds: float) -> None:
        """Wait for this time, or until `retain` has deleted something."""
        # Not wait_for: in Python 3.11 it drops a cancellation that meets its result (bpo-42130).
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._room.wait()

    def _drop(self, needed: int, keep_bytes: int, keep_s: float, now: float) -> int:
        with self._retaining:
            closed = self._log.closed_segments()
            n = droppable(closed, self.size, min([needed, *self._held]), keep_bytes, keep_s, now)
            return self._log.drop_before(closed[n - 1].end) if n else 0

    def _begin(self) -> None:
        """Make the pending entries the commit in flight."""
        self._in_flight, self._pending = list(self._pending.values()), {}
        self._in_flight_oldest = self._oldest
        self._work.clear()
        self._commits_begun += 1
        for chunk in self._in_flight:
            chunk.learn_every = self.learn_every_of(chunk.model)
            self._ends[chunk.model] = chunk.end

    async def _commit(self) -> None:
        """Write the pending entries as one commit, or retry the one that found the disk full; then acknowledge it.

        A cancellation is raised after that: a write cannot be undone.
        """
        started, cancelled = self._clock(), None
        self._room.clear()
        try:
            written = self._write_in_flight()
            while not written.done():
                try:
                    await asyncio.wait((written,))
                except asyncio.CancelledError as error:
                    cancelled = error
            position = written.result()
        except NoSpace as error:
            self.no_space, self._tries = error, self._tries + 1
            self._finish_waiters(self._commits_begun + 1, None, full=True)
            self._report_full()
        except Exception as error:
            failure = JournalFailed(f"journal commit failed: {error}. Nothing of it is acknowledged; restart")
            failure.__cause__ = error
            self._fail(failure)
            raise JournalFailed(str(self.failure)) from error
        else:
            self._acknowledge(position, started)
        if cancelled:
            raise cancelled

    def _write_in_flight(self) -> asyncio.Future[int]:
        """Begin a commit unless one is in flight, and have it made durable; returns a future of the position after it.

        Raises NoSpace, OSError.
        """
        if not self._in_flight:
            self._begin()
        batch, staged, started = self._in_flight, None, self._clock()
        may_stage = started >= self._wary_until and not self._begins_segment  # which the thread must not meet
        if may_stage and self._log.stages_quickly(sum(chunk.size for chunk in batch)):
            self._encoded = [chunk.encode() for chunk in batch]
            staged = self._log.stage(self._encoded)
            if self._clock() - started > BLOCKED_S:
                self._wary_until = started + WARY_S
        return self._writer.submit(partial(self._write, batch, staged))

    def _write(self, batch: list[PendingChunk], staged: Staged | None) -> int:
        """Make a commit durable, in the writer's thread, after writing it if it is not staged; return the position
        after it."""
        if staged is not None:
            return self._log.sync(staged)
        self._encoded = [chunk.encode() for chunk in batch]
        return self._log.write(self._encoded)

    def _acknowledge(self, position: int, started: float) -> None:
        """Tell listeners and waiters that the commit in flight is durable. started: clock seconds of its beginning."""
        batch, self._in_flight = self._in_flight, []
        if self.no_space:
            self.no_space, self._tries = None, 0
            self._report_full()
        before, self._durable_position = self._durable_position, position
        for chunk in batch:
            self._durable[chunk.model] = chunk.end
        chunks = tuple(CommittedChunk(c.model, c.offset, c.end, *c.ticks(), c.labels) for c in batch)
        now = self._clock()
        ends = itertools.accumulate((FRAME.size + len(data) for data in self._encoded), initial=before)
        frames = tuple(zip(itertools.islice(ends, 1, None), self._encoded, strict=True))
        self._encoded = []
        commit = Commit(position, now - started, now - self._in_flight_oldest, chunks, frames)
        for listener in self.on_commit:
            listener(commit)
        self._finish_waiters(self._commits_begun, None)

    def _report_full(self) -> None:
        for listener in self.on_full:
            listener(self.no_space)

    def _fail(self, failure: JournalFailed) -> None:
        """Accept no more entries, and raise the failure in every `flush`; the first failure is kept."""
        self.failure, self.no_space = self.failure or failure, None
        self._pending, self._in_flight = {}, []  # never acknowledged
        self._finish_waiters(self._commits_begun + 1, self.failure)

    def _finish_waiters(self, commit: int, failure: JournalFailed | None, *, full: bool = False) -> None:
        """End the waits for commits up to this one. full: only those waits that a full disk ends."""
        waiters, self._waiters = self._waiters, []
        for number, done, unless_full in waiters:
            if number > commit or (full and not unless_full):
                self._waiters.append((number, done, unless_full))
            elif done.done():  # its task was cancelled
                continue
            elif failure:
                done.set_exception(JournalFailed(str(failure)))
            else:
                done.set_result(None)
