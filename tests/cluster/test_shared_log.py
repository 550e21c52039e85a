"""A commit is acknowledged once the store has it: with the same bytes at every try, at the pace of the store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cluster.shards.ledger import Ledger, check_whole, missing
from service.cluster.shards.opening import open_shard
from service.cluster.shards.shared_log import SharedLog, pace_s
from service.cluster.store.seam import Extent, StoreLost
from service.journal.log import SegmentLog
from service.journal.records import Paused, Resumed
from service.journal.segments import encode_commit
from service.journal.writer import Commit, Journal, JournalFailed
from service.server.readiness import Readiness
from service.storage.disk import Unreachable
from tests.cluster.faulty import Faulty
from tests.cluster.shard_world import NODE, shard

DEADLINE_S = 60.0


@contextlib.asynccontextmanager
async def journal_of(store: Faulty, folder: Path) -> AsyncIterator[Journal]:
    opened = await asyncio.to_thread(open_shard, store, 3, folder, NODE)
    journal = opened.journal(0.0)
    running = asyncio.create_task(journal.run())
    try:
        yield journal
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError, JournalFailed):
            await running
        journal.close()


def entries(store: Faulty) -> list[bytes]:
    """What the store holds after the claim, entry by entry."""
    return list(store.inner.read(3, store.inner.extents(3, 0)[1:]))


@pytest.mark.parametrize("is_mutant", [False, True], ids=["after the store", "before the store"])
async def test_nothing_is_acknowledged_before_the_store_has_it(store, tmp_path, monkeypatch, is_mutant):
    if is_mutant:
        monkeypatch.setattr(SharedLog, "_append", lambda self, frames: None)
    had: list[int] = []
    async with journal_of(store, tmp_path / "one") as journal:
        journal.on_commit.append(lambda commit: had.append(len(entries(store))))
        for n in range(3):
            journal.append(1, Paused())
            await journal.flush()
            assert len(had) == n + 1

    assert (had == [1, 2, 3]) != is_mutant


class NewBytes(SharedLog):
    """A mutant: what arrived since the first try is in the second."""

    def write(self, payloads):
        if self._unsure is not None:
            self._unsure = None
            payloads = [*payloads, payloads[0]]
        return super().write(payloads)


@pytest.mark.parametrize("is_mutant", [False, True], ids=["the same bytes", "new bytes"])
async def test_an_entry_whose_answer_is_lost_is_written_once(store, tmp_path, monkeypatch, is_mutant):
    if is_mutant:
        monkeypatch.setattr("service.cluster.shards.cache.SharedLog", NewBytes)
    commits: list[Commit] = []
    async with journal_of(store, tmp_path / "one") as journal:
        journal.on_commit.append(commits.append)
        store.errors_after["append"] = 3
        journal.append(1, Paused())
        await journal.flush(unless_full=True)
        journal.append(1, Resumed())
        try:
            async with asyncio.timeout(DEADLINE_S):
                await journal.flush()
        except JournalFailed:
            assert is_mutant
            return

    assert not is_mutant
    assert len(entries(store)) == len(commits) == 2
    assert store.inner.extents(3, 0)[-1] == Extent(commits[0].position, len(entries(store)[1]))


async def test_while_the_store_is_away_ticks_wait_as_with_a_full_disk_and_say_why(store, tmp_path):
    async with shard(store, tmp_path / "one", max_undurable_bytes=100) as one:
        model, journal = await one.model(), one.server.journal
        readiness = Readiness(tmp_path, journal, one.server.metrics)
        session = one.open(model, "pump")
        await one.tick(model, session, 0.0)
        await journal.flush()
        store.down = lambda operation: operation == "append"
        for n in range(5):  # of 24 bytes each: the last one crosses the bound
            await one.tick(model, session, float(n))
            await journal.flush(unless_full=True)

        assert isinstance(journal.no_space, Unreachable)
        assert readiness.obstacle() == "the store cannot be reached"
        with pytest.raises(AssertionError, match="the store cannot be reached"):
            await one.tick(model, session, 9.0)  # refused: answered by the test's own assertion

        store.down = lambda operation: False
        async with asyncio.timeout(DEADLINE_S):
            await journal.flush()
        await one.tick(model, session, 9.0)
        await journal.flush()
        assert readiness.obstacle() == "starting"
        assert model.table.durable_seq[session.row] == 7


async def test_a_journal_that_ends_while_the_store_is_away_keeps_what_was_acknowledged(store, tmp_path):
    async with journal_of(store, tmp_path / "one") as journal:
        journal.append(1, Paused())
        await journal.flush()
        store.down = lambda operation: True
        journal.append(1, Resumed())
        await journal.flush(unless_full=True)
    store.down = lambda operation: False

    async with journal_of(store, tmp_path / "two") as journal:
        records = [record for _, chunk in journal.chunks(0) if chunk.model == 1 for record in chunk.records]
        assert records == [Paused()]


async def test_a_plain_journal_has_the_bytes_of_a_shards(store, tmp_path):
    log = SegmentLog(tmp_path / "plain", 1 << 20)
    opened = await asyncio.to_thread(open_shard, store, 3, tmp_path / "one", NODE)
    claim = opened.log.raw(Extent(0, opened.log.end))
    frames, chain = encode_commit([claim[8:]], 0)
    assert frames == claim
    log.put(frames, chain)
    for payload in (b"a" * 40, b"b" * 50):
        for one in (log, opened.log):
            one.write([payload, payload])
    log.close()
    opened.log.close()

    [plain] = (tmp_path / "plain").glob("*.journal")
    [shared] = (tmp_path / "one" / "journal").glob("*.journal")
    assert plain.read_bytes() == shared.read_bytes()


def test_a_log_that_was_not_claimed_writes_nothing(store, tmp_path):
    log = SharedLog(tmp_path / "journal", 1 << 20, store, 3, (0, 0))
    try:
        with pytest.raises(RuntimeError, match="not claimed"):
            log.write([b"x"])
    finally:
        log.close()
    assert store.calls == []


async def test_the_pace_follows_the_store(store, tmp_path):
    now = [0.0]

    def takes(operation: str) -> None:
        now[0] += 0.3 if operation == "append" else 0.0

    opened = await asyncio.to_thread(open_shard, store, 3, tmp_path / "one", NODE)
    opened.log._clock = lambda: now[0]
    store.before = takes
    journal = opened.journal(0.01)
    assert journal.pace_s == 0.01
    running = asyncio.create_task(journal.run())
    journal.append(1, Paused())
    await journal.flush()
    assert journal.pace_s == pytest.approx(0.3)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    journal.close()


@given(st.lists(st.floats(0, 100), max_size=9), st.floats(0, 5))
def test_the_pace_is_the_median_within_bounds(recent, commit_s):
    pace = pace_s(recent, commit_s)
    assert commit_s <= pace <= max(1.0, commit_s)
    if len(recent) % 2 and commit_s <= sorted(recent)[len(recent) // 2] <= 1.0:
        assert pace == sorted(recent)[len(recent) // 2]


# ---- the ledger


def test_a_ledger_knows_the_entry_of_a_position_and_forgets_what_is_asked():
    ledger = Ledger(3, 100, 7)
    for end, chain in ((150, 8), (160, 9), (300, 10)):
        ledger.add(end, chain)

    assert [ledger.boundary(at) for at in (100, 149, 150, 159, 160, 299, 300)] == [
        (100, 7), (100, 7), (150, 8), (150, 8), (160, 9), (160, 9), (300, 10),
    ]  # fmt: skip
    assert ledger.extents(150) == [Extent(150, 10), Extent(160, 140)]
    ledger.forget_before(159)
    assert (ledger.begin, ledger.extents(0)) == (150, [Extent(150, 10), Extent(160, 140)])
    with pytest.raises(ValueError, match=r"position 120 is not in 150\.\.300"):
        ledger.boundary(120)


@pytest.mark.parametrize(
    ("extents", "words"),
    [
        ([Extent(0, 10), Extent(12, 5)], "a gap .* offset 12 should begin at 10"),
        ([Extent(0, 10), Extent(8, 5)], "an overlap .* offset 8 should begin at 10"),
        ([Extent(3, 10)], "a gap .* offset 3 should begin at 0"),
    ],
)
def test_entries_that_do_not_join_are_named(extents, words):
    with pytest.raises(StoreLost, match=f"shard 3: {words}"):
        check_whole(3, extents, 0)


def test_an_acknowledged_entry_that_is_gone_or_has_another_size_is_named():
    had = [Extent(0, 10), Extent(10, 5), Extent(15, 5)]

    lost = [str(error) for error in missing(3, had, [Extent(0, 10), Extent(15, 6), Extent(21, 9)])]

    assert lost == [
        "shard 3: the store acknowledged an entry of 5 bytes at offset 10, and now it is gone",
        "shard 3: the store acknowledged an entry of 5 bytes at offset 15, and now it has 6 bytes",
    ]
    assert list(missing(3, had, had)) == []
