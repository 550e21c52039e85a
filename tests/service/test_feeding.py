"""The journal is read for the trainer beside the event loop: forecasts do not wait for it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from service.journal.log import SegmentLog
from service.trainer.messages import LearnChunk, Message
from tests.service.one_process import world

DEADLINE_S = 60.0


class Inbox:
    """Stands in for the process: keeps what is written."""

    def __init__(self) -> None:
        self.got: list[Message] = []

    def write(self, message: Message) -> None:
        self.got.append(message)

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
