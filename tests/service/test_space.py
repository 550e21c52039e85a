"""A disk without room: nothing is acknowledged, nothing lost, and the same is written once there is room."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
from typing import Any

import numpy as np
import pytest

from service.journal import log as logs
from service.journal import writer as journals
from service.journal.log import SegmentLog
from service.journal.records import Ticks
from service.journal.writer import Journal, JournalFailed
from service.storage.database import Database
from service.storage.disk import LONGEST_S, NoSpace, again_s, needing_space
from service.trainer.checkpoint import Checkpoints
from tests.service import histories

X = np.ones(2, np.float32)


class Disk:
    """Stands before os.pwrite: with no room, half of a write is done and the rest refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room, self.refused, self._real = True, asyncio.Event(), os.pwrite
        self._loop = asyncio.get_running_loop()
        monkeypatch.setattr(os, "pwrite", self._pwrite)

    def _pwrite(self, fd: int, data: bytes, offset: int) -> int:
        if self.room:
            return self._real(fd, data, offset)
        if len(data) > 1:
            return self._real(fd, data[: len(data) // 2], offset)
        self._loop.call_soon_threadsafe(self.refused.set)
        raise OSError(errno.ENOSPC, "No space left on device")


@contextlib.asynccontextmanager
async def running(folder, **options):
    journal = Journal.open(folder, **options)
    writer = asyncio.create_task(journal.run())
    await asyncio.sleep(0)
    try:
        yield journal, writer
    finally:
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        journal.close()


def seqs(folder) -> list[int]:
    """What a fresh reader finds, in order."""
    with contextlib.closing(Journal.open(folder)) as journal:
        records = [record for _, chunk in journal.chunks(0) for record in chunk.records]
    ticks = [record for record in records if isinstance(record, Ticks)]
    assert len(ticks) == len(records)
    return [int(seq) for record in ticks for seq in record.seq]


async def test_a_commit_without_room_is_not_acknowledged_and_is_written_when_there_is_room(tmp_path, monkeypatch):
    commits: list[Any] = []
    told: list[Any] = []
    async with running(tmp_path) as (journal, _):
        disk = Disk(monkeypatch)
        journal.append_tick(1, 7, 1, 1.0, X)
        await journal.flush()
        size = next(tmp_path.glob("*.journal")).stat().st_size
        journal.on_commit.append(commits.append)
        journal.on_full.append(told.append)

        disk.room = False
        journal.append_tick(1, 7, 2, 2.0, X)
        await journal.flush(unless_full=True)  # returns, although nothing of it is on disk
        journal.append_tick(1, 7, 3, 3.0, X)  # taken, behind it
        flushing = asyncio.create_task(journal.flush())
        assert (commits, journal.durable_offset(1), journal.pending_entries) == ([], 1, 2)
        assert next(tmp_path.glob("*.journal")).stat().st_size == size, "the part that found room is cut off"
        assert isinstance(journal.no_space, NoSpace)
        assert not journal.failure

        disk.room = True
        await asyncio.wait_for(flushing, 60)
        assert journal.durable_offset(1) == 3
        assert journal.no_space is None
        assert isinstance(told[0], NoSpace)
        assert told[-1] is None
    assert seqs(tmp_path) == [1, 2, 3]


async def test_a_writer_that_is_told_to_leave_on_a_full_disk_leaves_and_says_that_it_failed(tmp_path, monkeypatch):
    async with running(tmp_path) as (journal, writer):
        disk = Disk(monkeypatch)
        disk.room = False
        journal.append_tick(1, 7, 1, 1.0, X)
        await disk.refused.wait()
        flushing = asyncio.create_task(journal.flush())
        await asyncio.sleep(0)

        writer.cancel()
        await asyncio.wait([writer], timeout=60)
        assert writer.cancelled()
        with pytest.raises(JournalFailed):
            await flushing
        disk.room = True
    assert seqs(tmp_path) == []


async def test_segments_that_are_dropped_let_the_writer_try_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "again_s", lambda tries: 1e9)  # time alone brings nothing about
    async with running(tmp_path, segment_bytes=1) as (journal, _):
        for seq in (1, 2, 3):
            journal.append_tick(1, 7, seq, float(seq), X)
            await journal.flush()
        disk = Disk(monkeypatch)
        disk.room = False
        journal.append_tick(1, 7, 4, 4.0, X)
        await journal.flush(unless_full=True)
        await asyncio.sleep(0)  # the writer waits

        disk.room = True
        assert await journal.retain(journal.durable_position, 0, 0.0, 1e12) > 0
        await asyncio.wait_for(journal.flush(), 60)
        assert journal.durable_offset(1) == 4


def test_a_new_segment_without_room_leaves_the_log_as_it_was(tmp_path, monkeypatch):
    with contextlib.closing(SegmentLog(tmp_path, segment_bytes=1)) as log:
        log.write([b"first"])

        def refuse(*arguments):
            raise NoSpace("injected")

        with monkeypatch.context() as patch:
            patch.setattr(logs, "create_segment", refuse)
            with pytest.raises(NoSpace):
                log.write([b"second"])
        log.write([b"second"])

        assert [payload for _, payload in log.read(0, 1 << 20)] == [b"first", b"second"]


async def fail_a_sync(tmp_path, monkeypatch, code):
    """Assert that a failed sync is final."""
    calls = []

    def fail(fd: int) -> None:
        calls.append(fd)
        if len(calls) > 1:
            raise RuntimeError("it was tried again")
        raise OSError(code, "injected")

    async with running(tmp_path) as (journal, writer):
        monkeypatch.setattr(os, "fdatasync", fail)
        journal.append_tick(1, 7, 1, 1.0, X)
        with pytest.raises(JournalFailed):
            await journal.flush()
        with pytest.raises(JournalFailed):
            await writer
        assert (len(calls), journal.no_space, journal.durable_offset(1)) == (1, None, 0)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
async def test_a_failed_sync_is_never_tried_again_whatever_its_error(tmp_path, monkeypatch, code):
    await fail_a_sync(tmp_path, monkeypatch, code)


async def test_a_log_that_syncs_again_would_be_found_out(tmp_path, monkeypatch):
    real = SegmentLog.sync

    def forgiving(self, staged):
        with needing_space("the mutant counts a sync as a write"):
            return real(self, staged)

    monkeypatch.setattr(SegmentLog, "sync", forgiving)
    with pytest.raises(AssertionError):
        await fail_a_sync(tmp_path, monkeypatch, errno.ENOSPC)


def test_tries_become_rarer_up_to_a_bound():
    waits = [again_s(tries) for tries in range(1, 2000)]

    assert waits == sorted(waits)
    assert 0 < waits[0] < waits[-1] == LONGEST_S


def test_a_full_database_undoes_the_transaction_and_says_so(tmp_path):
    database = Database(tmp_path / "some.db", 1, "CREATE TABLE t (data BLOB)")
    with contextlib.closing(database):
        with database.transaction() as sql:
            sql.execute("INSERT INTO t VALUES (zeroblob(100))")
            sql.execute("PRAGMA max_page_count = 5")

        with pytest.raises(NoSpace), database.transaction() as sql:
            sql.execute("INSERT INTO t VALUES (zeroblob(1000000))")

        with database.transaction() as sql:
            assert sql.execute("SELECT count(*) FROM t").fetchone() == (1,)
        with pytest.raises(sqlite3.IntegrityError), database.transaction():
            raise sqlite3.IntegrityError("another error stays what it is")


def test_a_checkpoint_that_found_no_room_is_in_the_next_one(tmp_path, monkeypatch):
    history = histories.history()
    with contextlib.closing(Checkpoints(tmp_path / "trainer.db")) as checkpoints:
        hosted = histories.fold(history[:10])
        checkpoints.save(10, [hosted])
        histories.fold(history[10:25], hosted)
        with checkpoints._database.transaction() as sql:
            pages = sql.execute("PRAGMA page_count").fetchone()[0]
            sql.execute(f"PRAGMA max_page_count = {pages}")
        with monkeypatch.context() as patch:
            head, blobs = hosted.pack()
            patch.setattr(hosted, "pack", lambda: (head, blobs | {"too much": bytes(4 << 20)}))
            with pytest.raises(NoSpace):
                checkpoints.save(25, [hosted])
        assert checkpoints.load(histories.GATE)[0] == 10

        histories.fold(history[25:], hosted)
        with checkpoints._database.transaction() as sql:
            sql.execute("PRAGMA max_page_count = 1000000")
        checkpoints.save(40, [hosted])
        position, models = checkpoints.load(histories.GATE)

    assert position == 40
    assert histories.digest(models[histories.MODEL]) == histories.digest(histories.fold(history))
