"""The journal: what is acknowledged is on disk and comes back; what is broken is cut off or refused, never skipped."""

import asyncio
import contextlib
import errno
import os
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.journal import log as log_module
from service.journal import segments
from service.journal.log import QUICK_BYTES, SegmentLog
from service.journal.records import Chunk, Label, Paused, RecordError, Reset, StreamOpened, Ticks, encode_chunk
from service.journal.segments import HEADER, Segment
from service.journal.writer import BLOCKED_S, WARY_S, Journal, JournalDamaged, JournalFailed, JournalLocked
from tests.conftest import examples

NAN = float("nan")
DEADLINE_S = 60.0


def x(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@contextlib.asynccontextmanager
async def running(directory: Path, **options):
    """A journal with its writer; leaving ends the writer (which commits what is left) and closes."""
    journal = Journal.open(directory, **options)
    writer = asyncio.create_task(journal.run())
    await asyncio.sleep(0)  # a task cancelled before its first step never runs at all
    try:
        yield journal
    finally:
        writer.cancel()
        with contextlib.suppress(asyncio.CancelledError, JournalFailed):
            await writer
        journal.close()


async def commit(journal: Journal, *ticks: tuple[int, int, int], record=None) -> None:
    """One commit of (model, stream, seq) ticks, and a record for model 1."""
    for model, stream, seq in ticks:
        journal.append_tick(model, stream, seq, float(seq), x(seq, seq / 8))
    if record is not None:
        journal.append(1, record)
    await journal.flush()


def make(directory: Path, commits: int = 3, **options) -> None:
    """A journal with `commits` commits, of models 1 and 2 each."""

    async def write():
        async with running(directory, **options) as journal:
            for seq in range(1, commits + 1):
                await commit(journal, (1, 7, seq), (2, 8, seq))

    asyncio.run(write())


def replayed(directory: Path) -> list[tuple[int, bytes]]:
    """What a fresh process finds: (position, encoded chunk)."""
    with contextlib.closing(Journal.open(directory)) as journal:
        return [(position, encode_chunk(chunk)) for position, chunk in journal.chunks(journal.first_position)]


def only_segment(directory: Path) -> Path:
    [path] = directory.glob("*.journal")
    return path


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("*.journal")}


# --- append, commit, reopen


async def test_what_is_committed_is_there_after_reopening(tmp_path):
    async with running(tmp_path) as journal:
        journal.append(1, StreamOpened(7, "pump-7", 1))
        journal.append_tick(1, 7, 1, NAN, x(1, 2))
        journal.append_tick(1, 7, 2, 1.5, x(3, 4))
        journal.append(2, Paused())
        await journal.flush()

    ticks = Ticks(
        np.array([7, 7], np.uint32), np.array([1, 2], np.uint64), np.array([NAN, 1.5]), x(1, 2, 3, 4).reshape(2, 2)
    )
    expected = [Chunk(1, 0, 1, (StreamOpened(7, "pump-7", 1), ticks)), Chunk(2, 0, 1, (Paused(),))]
    assert [chunk for _, chunk in replayed(tmp_path)] == [encode_chunk(chunk) for chunk in expected]


async def test_consecutive_ticks_become_one_record_whoever_appends_them(tmp_path):
    async with running(tmp_path) as journal:
        journal.append_tick(1, 7, 1, 1.0, x(1))
        journal.append(
            1, Ticks(np.array([7, 8], np.uint32), np.array([2, 1], np.uint64), np.array([2.0, NAN]), x(2, 3)[:, None])
        )
        journal.append_tick(1, 7, 3, 3.0, x(4))
        journal.append(1, Reset(7))
        journal.append_tick(1, 7, 4, 4.0, x(5))
        await journal.flush()
        [(_, chunk)] = journal.chunks(0)

    ticks, reset, last = chunk.records
    assert (ticks.stream.tolist(), ticks.seq.tolist(), ticks.x.tolist()) == (
        [7, 7, 8, 7],
        [1, 2, 1, 3],
        [[1], [2], [3], [4]],
    )
    assert reset == Reset(7)
    assert last.seq.tolist() == [4]


async def test_logical_offsets_count_the_entries_of_each_model(tmp_path):
    async with running(tmp_path) as journal:
        journal.start_offset(2, 100)
        ends = [journal.append_tick(1, 7, seq, NAN, x(0)) for seq in (1, 2)]
        ends.append(journal.append(2, Label(8, 1, x(0))))
        ends.append(journal.append(1, Label(7, 1, x(0))))
        await journal.flush()
        ends.append(journal.append_tick(2, 8, 2, NAN, x(0)))
        await journal.flush()
        chunks = [(chunk.model, chunk.offset, chunk.end) for _, chunk in journal.chunks(0)]

        assert ends == [1, 2, 101, 3, 102]
        assert chunks == [(1, 0, 3), (2, 100, 101), (2, 101, 102)]
        assert (journal.offset(1), journal.offset(2), journal.durable_offset(2), journal.offset(3)) == (3, 102, 102, 0)


@examples(25)
@given(
    st.lists(st.one_of(st.just("flush"), st.tuples(st.integers(1, 3), st.integers(0, 2), st.booleans())), max_size=30)
)
def test_any_interleaving_reads_back_per_model_in_order(tmp_path_factory, script):
    directory = tmp_path_factory.mktemp("journal")
    ledger: dict[int, list[tuple[int, int, bool]]] = defaultdict(list)
    seqs: dict[tuple[int, int], int] = defaultdict(int)

    async def write():
        async with running(directory, segment_bytes=200) as journal:
            for step in script:
                if step == "flush":
                    await journal.flush()
                    continue
                model, stream, is_tick = step
                seqs[model, stream] += 1
                entry = (stream, seqs[model, stream], is_tick)
                if is_tick:
                    end = journal.append_tick(model, stream, entry[1], NAN, x(*range(stream + 1)))
                else:
                    end = journal.append(model, Label(stream, entry[1], x(0)))
                ledger[model].append(entry)
                assert end == len(ledger[model])

    asyncio.run(write())

    found: dict[int, list[tuple[int, int, bool]]] = defaultdict(list)
    with contextlib.closing(Journal.open(directory)) as journal:
        for _, chunk in journal.chunks(0):
            assert chunk.offset == len(found[chunk.model])
            for record in chunk.records:
                if isinstance(record, Ticks):
                    found[chunk.model] += zip(
                        record.stream.tolist(), record.seq.tolist(), [True] * len(record.seq), strict=True
                    )
                else:
                    assert isinstance(record, Label)
                    found[chunk.model].append((record.stream, record.seq, False))
    assert found == ledger


async def test_the_callers_array_may_change_after_append(tmp_path):
    row, y = x(1, 2), x(3)
    async with running(tmp_path) as journal:
        journal.append_tick(1, 7, 1, NAN, row)
        journal.append(1, Label(7, 1, y))
        row[:], y[:] = 99, 99
        await journal.flush()
        [(_, chunk)] = journal.chunks(0)

    assert (chunk.records[0].x.tolist(), chunk.records[1].y.tolist()) == ([[1, 2]], [3])


async def test_a_record_that_cannot_be_written_is_refused_and_takes_no_offset(tmp_path):
    async with running(tmp_path) as journal:
        for bad in (
            lambda: journal.append(1, Reset(-1)),
            lambda: journal.append_tick(1, 2**32, 1, NAN, x(0)),
            lambda: journal.append_tick(1, 1, -1, NAN, x(0)),
            lambda: journal.append_tick(1, 1, 1, NAN, np.zeros(2)),
            lambda: journal.append_tick(1, 1, 1, NAN, x()),
            lambda: journal.append_tick(2**32, 1, 1, NAN, x(0)),
        ):
            with pytest.raises(RecordError):
                bad()
        assert (journal.offset(1), journal.pending_entries) == (0, 0)

        assert journal.append_tick(1, 7, 1, NAN, x(0)) == 1
        await journal.flush()


# --- group commit


async def test_a_commit_tells_its_listeners_what_is_durable(tmp_path):
    commits: list[Any] = []
    async with running(tmp_path) as journal:
        journal.on_commit.append(
            lambda commit: commits.append((commit, journal.durable_position, journal.durable_offset(1)))
        )
        await commit(journal, (1, 7, 1), (2, 8, 1), (1, 7, 2), (1, 9, 1), record=Paused())

        [(done, position, offset)] = commits
        assert (
            done.position
            == position
            == journal.durable_position
            == os.path.getsize(only_segment(tmp_path)) - HEADER.size
        )
        assert offset == 4
        assert done.seconds >= 0
        chunks = [(*chunk[:3], chunk.streams.tolist(), chunk.seqs.tolist()) for chunk in done.chunks]
        assert chunks == [(1, 0, 4, [7, 7, 9], [1, 2, 1]), (2, 0, 1, [8], [1])]


async def test_what_arrives_during_a_sync_is_one_next_commit(tmp_path, monkeypatch):
    commits, loop, real = [], asyncio.get_running_loop(), os.fdatasync
    async with running(tmp_path) as journal:
        appended = asyncio.Event()

        def arrive():
            for seq in range(2, 50):
                journal.append_tick(1, 7, seq, NAN, x(seq))
            assert journal.pending_entries == 49
            assert journal.durable_offset(1) == 0
            appended.set()

        def slow_sync(fd):
            if not appended.is_set():
                loop.call_soon_threadsafe(arrive)
                asyncio.run_coroutine_threadsafe(appended.wait(), loop).result()
            real(fd)

        monkeypatch.setattr(os, "fdatasync", slow_sync)
        journal.on_commit.append(lambda commit: commits.append(commit.chunks))
        journal.append_tick(1, 7, 1, NAN, x(1))
        await journal.flush()
        await journal.flush()

    assert [[chunk[:3] for chunk in chunks] for chunks in commits] == [[(1, 0, 1)], [(1, 1, 49)]]


async def test_a_small_commit_is_written_on_the_loop_and_synced_beside_it_a_large_one_only_beside_it(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("service.journal.writer.BLOCKED_S", DEADLINE_S)  # no write here counts as one that blocked
    here, pwrite, fdatasync = threading.get_ident(), os.pwrite, os.fdatasync
    wrote: list[bool] = []
    synced: list[bool] = []

    def write(fd, data, offset):
        wrote.append(threading.get_ident() == here)
        return pwrite(fd, data, offset)

    def sync(fd):
        synced.append(threading.get_ident() == here)
        return fdatasync(fd)

    async with running(tmp_path) as journal:
        monkeypatch.setattr(os, "pwrite", write)
        monkeypatch.setattr(os, "fdatasync", sync)
        await commit(journal, (1, 7, 1))
        journal.append(1, Label(7, 1, np.zeros(QUICK_BYTES // 4, np.float32)))
        await journal.flush()
        await commit(journal, (1, 7, 2))
        monkeypatch.undo()

    assert (wrote, synced) == ([True, False, True], [False] * 3)
    assert len(replayed(tmp_path)) == 3


async def test_what_the_loop_has_written_is_not_read_before_it_is_synced(tmp_path, monkeypatch):
    loop, real = asyncio.get_running_loop(), os.fdatasync
    seen: list[Any] = []
    async with running(tmp_path) as journal:

        async def look():
            seen.append((journal.read(0, 1 << 20), journal.durable_position, journal.durable_offset(1), journal.size))
            assert os.path.getsize(only_segment(tmp_path)) > HEADER.size, "it is written"

        def sync(fd):
            asyncio.run_coroutine_threadsafe(look(), loop).result()
            real(fd)

        monkeypatch.setattr(os, "fdatasync", sync)
        await commit(journal, (1, 7, 1))

    assert seen == [([], 0, 0, HEADER.size)]


async def test_after_a_write_that_blocked_the_loop_commits_are_written_beside_it_for_a_while(tmp_path, monkeypatch):
    here, pwrite, now = threading.get_ident(), os.pwrite, [100.0]
    wrote: list[bool] = []

    def write(fd, data, offset):
        wrote.append(threading.get_ident() == here)
        now[0] += 2 * BLOCKED_S if len(wrote) == 1 else 0.0
        return pwrite(fd, data, offset)

    with contextlib.closing(Journal(SegmentLog(tmp_path, 1 << 20), lambda: now[0])) as journal:
        writer = asyncio.create_task(journal.run())
        monkeypatch.setattr(os, "pwrite", write)
        await commit(journal, (1, 7, 1))
        await commit(journal, (1, 7, 2))
        now[0] += WARY_S
        await commit(journal, (1, 7, 3))
        writer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writer

    assert wrote == [True, False, True]


async def test_commits_during_the_beginning_of_a_segment_wait_for_it_beside_the_loop(tmp_path, monkeypatch):
    begun, go_on, create = threading.Event(), threading.Event(), segments.create_segment

    def slow(*args):
        begun.set()
        assert go_on.wait(DEADLINE_S)
        return create(*args)

    async with running(tmp_path) as journal:
        await commit(journal, (1, 7, 1))
        monkeypatch.setattr(log_module, "create_segment", slow)
        beginning = asyncio.create_task(journal.begin_segment())
        await asyncio.to_thread(begun.wait, DEADLINE_S)
        journal.append_tick(1, 7, 2, 2.0, x(2, 0.25))
        await asyncio.sleep(0)
        go_on.set()
        position = await beginning
        await journal.flush()

        assert [end for end, _ in journal.read(0, 1 << 20)] == [position, journal.durable_position]
    assert len(list(tmp_path.glob("*.journal"))) == 2
    assert len(replayed(tmp_path)) == 2


async def test_chunks_carry_the_thinning_in_force_when_they_were_committed(tmp_path):
    async with running(tmp_path) as journal:
        await commit(journal, (1, 7, 1))
        journal.learn_every_of = {1: 4, 2: 1}.__getitem__
        await commit(journal, (1, 7, 2), (2, 8, 1))

        assert [(chunk.model, chunk.learn_every) for _, chunk in journal.chunks(0)] == [(1, 1), (1, 4), (2, 1)]


async def test_a_cancelled_writer_commits_what_is_pending_and_takes_nothing_more(tmp_path):
    async with running(tmp_path) as journal:
        await commit(journal, (1, 7, 1))
        journal.append_tick(1, 7, 2, NAN, x(0, 0))
    before = contents(tmp_path)

    with pytest.raises(JournalFailed, match="writer has ended"):
        journal.append_tick(1, 7, 3, NAN, x(0, 0))
    assert len(replayed(tmp_path)) == 2
    assert contents(tmp_path) == before


@pytest.mark.parametrize("arriving", [0, 1])
async def test_a_writer_cancelled_during_a_sync_waits_for_it_and_acknowledges(tmp_path, monkeypatch, arriving):
    loop, real, cancelled = asyncio.get_running_loop(), os.fdatasync, []
    with contextlib.closing(Journal.open(tmp_path)) as journal:
        writer = asyncio.create_task(journal.run())

        async def cancel():
            cancelled.append(writer.cancel())
            for _ in range(arriving):
                journal.append_tick(1, 7, 2, NAN, x(0))
            await asyncio.sleep(0)  # the cancellation is delivered

        def sync(fd):
            if not cancelled:
                asyncio.run_coroutine_threadsafe(cancel(), loop).result()
            real(fd)

        monkeypatch.setattr(os, "fdatasync", sync)
        journal.append_tick(1, 7, 1, NAN, x(0))
        with pytest.raises(asyncio.CancelledError):
            await writer

        assert journal.durable_offset(1) == 1 + arriving
        assert [chunk.end for _, chunk in journal.chunks(0)] == [1, 2][: 1 + arriving]


async def test_pending_bytes_and_entries_are_what_is_not_yet_durable(tmp_path):
    async with running(tmp_path) as journal:
        journal.append_tick(1, 7, 1, NAN, x(1, 2, 3))
        journal.append_tick(2, 7, 1, NAN, x(1))
        assert (journal.pending_entries, journal.pending_bytes) == (2, 20 + 12 + 20 + 4)

        await journal.flush()
        assert (journal.pending_entries, journal.pending_bytes) == (0, 0)


@pytest.mark.parametrize("call", ["fdatasync", "pwrite"])
async def test_after_a_failed_write_or_sync_nothing_is_acknowledged_and_nothing_taken(tmp_path, monkeypatch, call):
    commits: list[Any] = []
    async with running(tmp_path) as journal:
        await commit(journal, (1, 7, 1))
        journal.on_commit.append(commits.append)
        position = journal.durable_position
        calls = []

        def fail(*args):
            calls.append(args)
            raise OSError(errno.EIO, "injected")

        monkeypatch.setattr(os, call, fail)
        journal.append_tick(1, 7, 2, NAN, x(0, 0))
        with pytest.raises(JournalFailed, match="injected"):
            await journal.flush()
        for refused in (lambda: journal.append_tick(1, 7, 3, NAN, x(0, 0)), lambda: journal.append(1, Paused())):
            with pytest.raises(JournalFailed, match="injected"):
                refused()
        with pytest.raises(JournalFailed):
            await journal.flush()
        monkeypatch.undo()

        assert (commits, len(calls), journal.durable_position, journal.durable_offset(1)) == ([], 1, position, 1)
        assert len(journal.read(0, 1 << 20)) == 1
        assert isinstance(journal.failure, JournalFailed)


async def test_the_writer_ends_with_the_failure(tmp_path, monkeypatch):
    with contextlib.closing(Journal.open(tmp_path)) as journal:
        monkeypatch.setattr(os, "fdatasync", lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, "injected")))
        journal.append(1, Paused())

        with pytest.raises(JournalFailed, match="injected"):
            await journal.run()


def test_opening_writes_the_last_commit_again_because_it_may_be_in_the_page_cache_only(tmp_path, monkeypatch):
    make(tmp_path, commits=2)
    size, pwrite, fdatasync = os.path.getsize(only_segment(tmp_path)), os.pwrite, os.fdatasync
    calls: list[Any] = []

    def write(fd, data, offset):
        calls.append((offset, offset + len(data)))
        return pwrite(fd, data, offset)

    def sync(fd):
        calls.append("sync")
        return fdatasync(fd)

    monkeypatch.setattr(os, "pwrite", write)
    monkeypatch.setattr(os, "fdatasync", sync)

    Journal.open(tmp_path).close()

    middle = (HEADER.size + size) // 2  # two commits of equal length
    assert calls[1:] == [(middle, size), "sync"]  # after the lock file's pid


# --- torn, damaged, locked


def test_a_torn_end_is_cut_off_at_every_byte_and_the_journal_goes_on(tmp_path):
    make(tmp_path / "whole", commits=3)
    whole, frames = only_segment(tmp_path / "whole").read_bytes(), replayed(tmp_path / "whole")
    name = only_segment(tmp_path / "whole").name

    for size in range(HEADER.size, len(whole) + 1):
        directory = tmp_path / "torn"
        directory.mkdir()
        (directory / name).write_bytes(whole[:size])
        survivors = [frame for frame in frames if HEADER.size + frame[0] <= size]
        with contextlib.closing(Journal.open(directory)) as journal:
            end = survivors[-1][0] if survivors else 0
            assert (journal.durable_position, journal.truncated_bytes) == (end, size - HEADER.size - end)
        assert replayed(directory) == survivors
        if size % 16 == 0:
            make(directory, commits=1)
            assert len(replayed(directory)) == len(survivors) + 2
        shutil.rmtree(directory)


def test_zeros_after_the_end_are_a_torn_end(tmp_path):
    make(tmp_path)
    frames, path = replayed(tmp_path), only_segment(tmp_path)
    with path.open("ab") as file:
        file.write(bytes(4096))

    with contextlib.closing(Journal.open(tmp_path)) as journal:
        assert journal.truncated_bytes == 4096
    assert replayed(tmp_path) == frames


def test_a_flipped_bit_is_refused_wherever_a_later_commit_follows_and_never_skipped(tmp_path):
    make(tmp_path, commits=3)
    path, frames = only_segment(tmp_path), replayed(tmp_path)
    whole, last_commit = path.read_bytes(), HEADER.size + frames[3][0]

    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        damaged = path.read_bytes()
        if at < last_commit:
            with pytest.raises(JournalDamaged, match=rf"{path.name}, byte \d+: .*Restore"):
                Journal.open(tmp_path)
            assert path.read_bytes() == damaged
        else:  # the last commit cannot be told from a torn one: cut off, and counted
            with contextlib.closing(Journal.open(tmp_path)) as journal:
                assert journal.truncated_bytes > 0
            assert replayed(tmp_path) == frames[: 4 if at < HEADER.size + frames[4][0] else 5]


def test_damage_in_an_older_segment_is_refused(tmp_path):
    make(tmp_path, commits=4, segment_bytes=1)
    first = min(tmp_path.glob("*.journal"))
    whole = first.read_bytes()

    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), whole + b"\0", whole[: HEADER.size - 1]):
        first.write_bytes(damaged)
        with pytest.raises(JournalDamaged, match=first.name):
            Journal.open(tmp_path)


def test_a_missing_segment_is_refused(tmp_path):
    make(tmp_path, commits=4, segment_bytes=1)
    sorted(tmp_path.glob("*.journal"))[1].unlink()

    with pytest.raises(JournalDamaged, match="does not continue the segment before it"):
        Journal.open(tmp_path)


def test_another_format_version_is_refused_by_number(tmp_path):
    make(tmp_path)
    path = only_segment(tmp_path)
    import zlib

    header = bytearray(path.read_bytes()[: HEADER.size])
    header[8] = 9
    header[-4:] = zlib.crc32(header[:-4]).to_bytes(4, "little")
    path.write_bytes(header)

    with pytest.raises(JournalDamaged, match="format 9, this version of freshet reads format 1"):
        Journal.open(tmp_path)


def test_a_segment_that_was_being_made_is_forgotten(tmp_path):
    make(tmp_path)
    frames = replayed(tmp_path)
    (tmp_path / "00000000000000009999.tmp").write_bytes(b"fresh")

    assert replayed(tmp_path) == frames
    assert not list(tmp_path.glob("*.tmp"))


def test_a_second_process_is_refused_and_told_the_first_ones_pid(tmp_path):
    script = (
        "import sys; from service.journal.writer import Journal; journal = Journal.open(sys.argv[1]);"
        "print('open', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(JournalLocked, match=f"in use by process {other.pid}"):
            Journal.open(tmp_path)
    finally:
        other.kill()
        other.communicate()

    Journal.open(tmp_path).close()  # the lock died with its owner


# --- read, replay, drop


@pytest.mark.parametrize("segment_bytes", [1, 300, 1 << 20])
def test_reading_in_any_portions_gives_the_same_frames(tmp_path, segment_bytes):
    make(tmp_path, commits=5, segment_bytes=segment_bytes)
    frames = replayed(tmp_path)

    with contextlib.closing(Journal.open(tmp_path)) as journal:
        for max_bytes in (0, 150, 400, 1 << 20):
            position, found = 0, []
            while portion := journal.read(position, max_bytes):
                assert len(portion) == 1 or sum(len(payload) for _, payload in portion) <= max_bytes
                found += portion
                position = portion[-1][0]
            assert found == frames
        for i, (position, _) in enumerate(frames):
            assert journal.read(position, 1 << 20) == frames[i + 1 :]


def test_replay_starts_anywhere_even_where_nothing_is_remembered(tmp_path):
    make(tmp_path, commits=5)
    frames = replayed(tmp_path)

    for i, (position, _) in enumerate(frames):
        with contextlib.closing(Journal.open(tmp_path)) as journal:
            assert [(end, encode_chunk(chunk)) for end, chunk in journal.chunks(position)] == frames[i + 1 :]


async def test_a_reader_can_follow_the_writer(tmp_path):
    async with running(tmp_path, segment_bytes=300) as journal:
        followed, position = [], 0
        for seq in range(1, 9):
            await commit(journal, (1, 7, seq))
            portion = journal.read(position, 1 << 20)
            position = portion[-1][0]
            followed += [payload for _, payload in portion]
            assert journal.read(position, 1 << 20) == []

    assert followed == [payload for _, payload in replayed(tmp_path)]


def test_a_position_that_the_journal_does_not_hold_is_refused(tmp_path):
    make(tmp_path, commits=4, segment_bytes=1)
    with contextlib.closing(Journal.open(tmp_path)) as journal:
        end = journal.durable_position
        boundary = next(position for position, _ in journal.chunks(0))

        with pytest.raises(JournalDamaged, match=f"the journal ends at {end}, before position {end + 1}"):
            journal.read(end + 1, 1)
        with pytest.raises(JournalDamaged, match="the journal ends at"):
            list(journal.chunks(end + 1))
        with pytest.raises(JournalDamaged, match="not a frame boundary"):
            journal.read(boundary + 1, 1)


def test_damage_while_running_is_refused_by_read(tmp_path):
    make(tmp_path)
    path = only_segment(tmp_path)
    with contextlib.closing(Journal.open(tmp_path)) as journal:
        whole = bytearray(path.read_bytes())
        whole[-1] ^= 1
        path.write_bytes(whole)

        with pytest.raises(JournalDamaged, match="no longer as it was written"):
            journal.read(0, 1 << 20)


def test_dropping_deletes_whole_segments_only_and_what_is_left_reopens(tmp_path):
    make(tmp_path, commits=4, segment_bytes=1)
    frames = replayed(tmp_path)
    with contextlib.closing(Journal.open(tmp_path)) as journal:
        assert (
            asyncio.run(journal.retain(frames[4][0], 0, 0.0, 1e12)) == 2
        )  # into the third of four segments of two frames
        assert journal.first_position == frames[3][0]
        with pytest.raises(JournalDamaged, match="begins at position"):
            journal.read(0, 1)
        assert asyncio.run(journal.retain(10**9, 0, 0.0, 1e12)) == 1  # never the last

    assert replayed(tmp_path) == frames[6:]


def test_a_reader_that_goes_on_reads_no_frame_before_its_own_however_far_the_writer_is_ahead(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)
    seen, frames = [], Segment.frames

    def counted(self, position, chain, end):
        for frame in frames(self, position, chain, end):
            seen.append(frame.end)
            yield frame

    with contextlib.closing(SegmentLog(tmp_path, 1 << 20)) as log:
        ends = [log.write([b"%d" % n]) for n in range(10)]
        assert log.read(ends[4], 0) == [(ends[5], b"5")]
        for n in range(10, 5000):
            log.write([b"%d" % n])
        monkeypatch.setattr(Segment, "frames", counted)

        assert log.read(ends[5], 0) == [(ends[6], b"6")]

    assert seen == ends[6:8], "its own, and the one after it that was one too many"
