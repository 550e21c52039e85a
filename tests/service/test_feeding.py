"""The journal is read for the trainer beside the event loop: forecasts do not wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.journal.log import SegmentLog
from service.journal.records import decode_chunk
from service.learning import feed as feeding
from service.learning.feed import Feed
from service.trainer.messages import LearnChunk, Message
from tests.service.one_process import World, world

DEADLINE_S = 60.0


class Inbox:
    """Stands in for the process: keeps what is written."""

    def __init__(self) -> None:
        self.got: list[Message] = []
        self.writes: list[int] = []  # messages of each

    def write(self, *messages: Message) -> None:
        self.got.extend(messages)
        self.writes.append(len(messages))

    async def drain(self) -> None:
        await asyncio.sleep(0)


async def test_a_tick_is_answered_while_the_journal_is_read_for_the_trainer(tmp_path, monkeypatch):
    read, entered, go_on = SegmentLog.read, threading.Event(), threading.Event()

    def slow(self: SegmentLog, *args: Any) -> Any:
        entered.set()
        assert go_on.wait(DEADLINE_S), "the loop waits for the reader"
        return read(self, *args)

    async with world(tmp_path / "data") as live:
        model = await live.model()
        session = live.open(model, "pump")
        await live.tick(model, session, 1.0)
        await live.server.journal.flush()
        client, inbox = live.server.trainers.clients[0], Inbox()
        monkeypatch.setattr(client, "_process", inbox)
        monkeypatch.setattr(SegmentLog, "read", slow)
        client.feed.committed(())  # nothing of the journal is here
        client.feed.restart(0, {})
        client.ready.set()
        feeding = asyncio.create_task(client._feed())
        assert await asyncio.to_thread(entered.wait, DEADLINE_S)

        answer = await live.tick(model, session, 2.0)
        go_on.set()
        while not inbox.got and not feeding.done():
            await asyncio.sleep(0)
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)

    assert answer.seq == 2
    assert {type(message) for message in inbox.got} == {LearnChunk}


async def test_commits_are_fed_as_they_were_written_and_only_what_came_before_is_read(tmp_path, monkeypatch):
    read, reads = SegmentLog.read, []

    def noted(self: SegmentLog, position: int, *args: Any) -> Any:
        reads.append(position)
        return read(self, position, *args)

    async with world(tmp_path / "data") as live:
        model = await live.model()
        session, journal = live.open(model, "pump"), live.server.journal
        await live.tick(model, session, 1.0)
        await journal.flush()
        client, inbox = live.server.trainers.clients[0], Inbox()
        monkeypatch.setattr(client, "_process", inbox)
        monkeypatch.setattr(SegmentLog, "read", noted)
        client.feed.restart(0, {})
        client.ready.set()
        feeding = asyncio.create_task(client._feed())
        async with asyncio.timeout(DEADLINE_S):
            while client.feed.queues.scanned < journal.durable_position:
                await asyncio.sleep(0)
            before = len(reads)
            for value in (2.0, 3.0, 4.0):
                await live.tick(model, session, value)
                await journal.flush()
                while client.feed.queues.scanned < journal.durable_position:
                    await asyncio.sleep(0)
            assert len(reads) == before
            while client.feed.in_flight:
                client.feed.learned(client.feed.in_flight[0].chunk.end)
                await asyncio.sleep(0)
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        monkeypatch.undo()
        written = journal.read(0, 1 << 20)

    sent = [message for message in inbox.got if isinstance(message, LearnChunk)]
    assert [(message.position, message.payload) for message in sent] == written[-len(sent) :]
    assert len(sent) >= 4


async def test_a_commit_that_the_feed_has_not_heard_of_is_read(tmp_path):
    async with world(tmp_path / "data") as live:
        model = await live.model()
        session, journal = live.open(model, "pump"), live.server.journal
        feed = live.server.trainers.clients[0].feed
        feed.restart(journal.durable_position, {model.number: journal.durable_offset(model.number)})
        await live.tick(model, session, 1.0)
        await journal.flush()
        feed.committed(())  # of whose frames nothing is here
        await live.tick(model, session, 2.0)
        await journal.flush()

        assert await feed._read()
        assert feed.queues.scanned == journal.durable_position


@contextlib.asynccontextmanager
async def fed(live: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Feed, Inbox]]:
    """Run the feed of the only trainer, whose clock stands still; a chunk counts as learned at once, in no time."""
    client, inbox = live.server.trainers.clients[0], Inbox()
    monkeypatch.setattr(client, "_process", inbox)
    monkeypatch.setattr(client.feed, "_clock", lambda: 100.0)
    client.feed.restart(0, {})
    client.ready.set()
    task = asyncio.create_task(client._feed())
    yield client.feed, inbox
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def all_sent(live: World, feed: Feed, learns: bool = True) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while feed.queues.resume < live.server.journal.durable_position or (learns and feed.in_flight):
            if learns and feed.in_flight:
                last = feed.in_flight[-1].chunk
                feed.learned(last.end, 1e-9, decode_chunk(last.payload).end)
            await asyncio.sleep(0)


async def test_small_commits_within_the_pace_are_sent_together(tmp_path, monkeypatch):
    monkeypatch.setattr(feeding, "MOST_PACE_S", 2 * DEADLINE_S)
    async with world(tmp_path / "data") as live:
        model = await live.model()
        session, journal = live.open(model, "pump"), live.server.journal
        async with fed(live, monkeypatch) as (feed, inbox):
            await live.tick(model, session, 1.0)
            await journal.flush()
            feed.hurry()
            await all_sent(live, feed)
            inbox.writes.clear()
            for value in range(5):
                await live.tick(model, session, float(value))
                await journal.flush()
            assert not inbox.writes
            feed.hurry()  # as after the pace
            await all_sent(live, feed)

    assert inbox.writes == [5]


async def test_a_commit_is_sent_after_the_pace_at_the_latest(tmp_path, monkeypatch):
    async with world(tmp_path / "data") as live:
        model = await live.model()
        session = live.open(model, "pump")
        async with fed(live, monkeypatch) as (feed, _):
            for value in range(3):
                await live.tick(model, session, float(value))
                await live.server.journal.flush()
                await all_sent(live, feed)


async def test_commits_of_much_work_and_those_a_question_waits_for_are_sent_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(feeding, "MOST_PACE_S", 2 * DEADLINE_S)
    async with world(tmp_path / "data") as live:
        model = await live.model()
        session, journal = live.open(model, "pump"), live.server.journal
        async with fed(live, monkeypatch) as (feed, _):
            await live.tick(model, session, 1.0)
            await journal.flush()
            feed.hurry()
            await all_sent(live, feed)
            await live.tick(model, session, 2.0)
            await journal.flush()
            asked = asyncio.create_task(live.server.trainers.quarantined(model.number, 0, 1, (), DEADLINE_S))
            await all_sent(live, feed)
            asked.cancel()
            monkeypatch.setattr(feeding, "WORK_S", 0.0)
            await live.tick(model, session, 3.0)
            await journal.flush()
            await all_sent(live, feed)


async def test_after_a_death_chunks_that_were_sent_before_are_sent_one_by_one(tmp_path, monkeypatch):
    async with world(tmp_path / "data") as live:
        model = await live.model()
        session, journal = live.open(model, "pump"), live.server.journal
        async with fed(live, monkeypatch) as (feed, inbox):
            for value in range(6):
                await live.tick(model, session, float(value))
                await journal.flush()
                await all_sent(live, feed, learns=value < 3)
            assert len(feed.in_flight) > 1

            feed.restart(0, {})
            inbox.writes.clear()
            await all_sent(live, feed)

            assert inbox.writes == [1] * len(journal.read(0, 1 << 20))
            for value in range(6):
                await live.tick(model, session, float(value))
                await journal.flush()
            feed.hurry()
            await all_sent(live, feed)
            assert max(inbox.writes) > 1, "later chunks may go together"
