"""A wait for labels to be judged says in the log what it waits for, once it lasts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

import freshet
from freshet import patience
from tests.client.fake_server import FakeServer


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    server = FakeServer()
    server.judge_every = 1000  # nothing is judged by itself
    await server.start()
    yield server
    await server.stop()


class Heard(logging.Handler):
    """Warnings, in a queue of the test's loop."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.loop, self.texts = asyncio.get_running_loop(), asyncio.Queue[str]()

    def emit(self, record: logging.LogRecord) -> None:
        self.loop.call_soon_threadsafe(self.texts.put_nowait, record.getMessage())


@pytest.fixture
async def heard(monkeypatch) -> AsyncIterator[Heard]:
    monkeypatch.setattr(patience, "FIRST_S", 0.01)
    heard, log = Heard(), logging.getLogger("freshet")
    log.addHandler(heard)
    yield heard
    log.removeHandler(heard)


def judge(server: FakeServer) -> None:
    server.judge_every = 1
    server.commit()


async def collect(stream: freshet.Stream) -> list[int]:
    return [f.seq async for f in stream.forecasts([float(i) for i in range(1, 11)], max_staleness=4)]


async def test_a_tick_that_is_held_back_says_for_what_and_again_later(server, heard):
    async with freshet.connect(f"127.0.0.1:{server.port}") as client, client.stream("m", "pump") as stream:
        waiting = asyncio.create_task(collect(stream))
        first, second = await heard.texts.get(), await heard.texts.get()
        judge(server)
        assert await waiting == list(range(1, 11))

    for text in (first, second):
        assert "stream 'pump': max_staleness = 4 holds tick 5 back until labels up to tick 1 are judged" in text
        assert "so far up to 0." in text
        assert "freshet top" in text


async def test_a_wait_for_judgement_says_how_far_it_is(server, heard):
    async with freshet.connect(f"127.0.0.1:{server.port}") as client, client.stream("m", "pump") as stream:
        await stream.step(1.0)
        waiting = asyncio.create_task(stream.wait_judged(1))
        text = await heard.texts.get()
        judge(server)
        await waiting

    assert "wait_judged(1) waits until labels up to tick 1 are judged" in text


async def test_the_blocking_form_says_it_too(server, heard):
    def run() -> list[int]:
        with freshet.sync.connect(f"127.0.0.1:{server.port}") as client, client.stream("m", "pump") as stream:
            return [f.seq for f in stream.forecasts([1.0, 2.0, 3.0], max_staleness=1)]

    waiting = asyncio.create_task(asyncio.to_thread(run))
    assert "max_staleness = 1 holds tick 2 back" in await heard.texts.get()
    judge(server)
    assert await waiting == [1, 2, 3]


async def test_a_wait_that_is_over_says_nothing_more(server, heard):
    judge(server)
    async with freshet.connect(f"127.0.0.1:{server.port}") as client, client.stream("m", "pump") as stream:
        assert await collect(stream) == list(range(1, 11))
        await stream.wait_judged(10)
        loop: Any = asyncio.get_running_loop()  # a private list: nothing else shows a loop's timers
        timers = [handle for handle in loop._scheduled if not handle.cancelled()]

    assert not any("Reported" in repr(timer) for timer in timers)


async def test_progress_keeps_a_wait_quiet_until_it_has_lasted_long(server, heard, monkeypatch):
    """Seen through the parts: a wait in which something is judged at each look."""
    looks: list[float] = []

    def look() -> int:
        looks.append(0.0)
        return len(looks)

    monkeypatch.setattr(patience, "ANYWAY_S", 0.03)
    with patience.Reported(lambda: "waiting", look):
        text = await heard.texts.get()

    assert "waiting" in text
    assert len(looks) >= 4, "one at the beginning, and three looks of 0.01 s"
