"""Whatever is awaited ends once: within give_up_s where the server is silent, and in good order where it is cancelled.

The server's connection lives throughout: only its application is silent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

import freshet
import freshet.sync
from tests.client.fake_training import FakeTraining

GIVE_UP_S = 1.0  # enough for the calls that must succeed first, on a busy machine
TURNS = 40  # of the loop: a whole step, with the server in the same loop


@pytest.fixture
async def server() -> AsyncIterator[FakeTraining]:
    fake = FakeTraining()
    fake.spec.task = "regress"
    fake.models["m"].spec.task = "regress"
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def client(server: FakeTraining) -> AsyncIterator[freshet.Client]:
    async with freshet.connect(f"127.0.0.1:{server.port}") as connected:
        yield connected


async def turned(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# --- silent


async def first(forecasts: freshet.Forecasts) -> Any:
    return await anext(aiter(forecasts))


WAITS: dict[str, tuple[dict[str, Any], Callable[[freshet.Stream], Any], str]] = {
    "a step": ({"mute": True}, lambda stream: stream.step(2.0), "the answer to tick 2"),
    "forecasts": ({"mute": True}, lambda stream: first(stream.forecasts([2.0, 3.0])), "the answer to tick 2"),
    "a step that is put off": ({"overloaded": True}, lambda stream: stream.step(2.0), "the server delays: send 2"),
    "the disk": ({"commit_every": None}, lambda stream: stream.durable(), "tick 1 to reach the server's disk"),
    "a label": ({"commit_every": None}, lambda stream: stream.label(1, 5.0), "the label of tick 1 to reach"),
    "a verdict": ({"commit_every": None}, lambda stream: stream.wait_judged(1), "labels up to 1 to be judged"),
    "a fresh enough version": (
        {"commit_every": None}, lambda stream: first(stream.forecasts([2.0], max_staleness=1)), "labels up to 1 to be",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WAITS)
async def test_what_a_stream_waits_for_ends_within_give_up_s_and_says_what_it_was(client, server, case):
    knobs, wait, words = WAITS[case]
    server.commit_every = None
    stream = await client.stream("m", "s", give_up_s=GIVE_UP_S, close_s=0.0).open()
    await stream.step(1.0)
    for name, value in knobs.items():
        setattr(server, name, value)
    server.streams["s"].call.mute = bool(knobs.get("mute"))

    with pytest.raises(freshet.Unavailable, match=f"no success for {GIVE_UP_S:g} s, waiting for .*{words}"):
        await wait(stream)

    with contextlib.suppress(freshet.Unavailable):  # where the stream goes on, and its ticks are not on disk
        await stream.aclose()


async def test_a_reset_behind_a_tick_without_an_answer_ends_within_give_up_s(client, server):
    server.mute = True
    stream = await client.stream("m", "s", give_up_s=GIVE_UP_S, close_s=0.0).open()
    step = asyncio.create_task(stream.step(1.0))
    await turned(3)
    for outcome in await asyncio.gather(step, stream.reset(), return_exceptions=True):
        assert isinstance(outcome, freshet.Unavailable)
    with pytest.raises(freshet.Unavailable):
        await stream.step(2.0)


OPENED: dict[str, Callable[[freshet.Client], Any]] = {
    "a stream": lambda client: client.stream("m", "s", give_up_s=GIVE_UP_S).open(),
    "a sender": lambda client: client.learn("m", "source", give_up_s=GIVE_UP_S).open(),
    "a mux": lambda client: client.mux("m", give_up_s=GIVE_UP_S).open(),
    "a watch": lambda client: anext(client.watch("m", give_up_s=GIVE_UP_S)),
}


@pytest.mark.parametrize("case", OPENED)
async def test_opening_ends_within_give_up_s(client, server, case):
    server.welcoming.clear()
    with pytest.raises(freshet.Unavailable):
        await OPENED[case](client)


async def test_a_sender_ends_within_give_up_s_whatever_it_waits_for(client, server):
    server.acknowledging.clear()
    for wait in (
        lambda learn: learn.flush(),
        lambda learn: learn.aclose(),
        lambda learn: learn.window([[1.0]], 2.0),
        lambda learn: learn.label("s", 7, 2.0),
    ):
        learn = await client.learn("m", "source", give_up_s=GIVE_UP_S, in_flight=1).open()
        await learn.label("s", 1, 1.0)
        with pytest.raises(freshet.Unavailable, match=f"no success for {GIVE_UP_S:g} s, waiting for"):
            await wait(learn)
        with pytest.raises((freshet.Unavailable, freshet.StreamClosed)):
            await learn.label("s", 2, 1.0)


async def test_time_that_passes_before_a_tick_is_given_is_not_the_servers(client, server):
    async with client.stream("m", "s", give_up_s=GIVE_UP_S) as stream:
        waits = [asyncio.create_task(stream.durable(1)), asyncio.create_task(stream.wait_judged(1))]
        done, _ = await asyncio.wait(waits, timeout=3 * GIVE_UP_S)
        assert not done
        await stream.step(1.0)
        await asyncio.gather(*waits)


async def test_a_silent_server_ends_what_blocks_too(server):
    server.mute, server.commit_every = True, None
    server.acknowledging.clear()

    def block() -> list[type[Exception]]:
        ends: list[type[Exception]] = []
        with freshet.sync.connect(f"127.0.0.1:{server.port}") as client:
            stream = client.stream("m", "s", give_up_s=GIVE_UP_S, close_s=0.0).open()
            learn = client.learn("m", "source", give_up_s=GIVE_UP_S).open()
            learn.label("s", 1, 1.0)
            for wait in (lambda: stream.step(1.0), lambda: next(stream.forecasts([1.0])), learn.flush, stream.durable):
                try:
                    wait()
                except freshet.FreshetError as error:
                    ends.append(type(error))
        return ends

    assert await asyncio.to_thread(block) == [freshet.Unavailable] * 4


async def test_closing_the_client_ends_what_was_asked_of_it(client, server):
    server.welcoming.clear()
    asked = [asyncio.create_task(client.get_model("m")), asyncio.create_task(anext(client.watch("m")))]
    await turned(20)
    await client.aclose()
    for outcome in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(outcome, freshet.FreshetError), outcome


async def test_closing_the_client_closes_its_senders_with_all_acknowledged(client, server):
    learn = await client.learn("m", "source").open()
    await learn.window([[1.0]], 2.0)
    await client.aclose()
    assert len(server.windows) == 1
    with pytest.raises(freshet.StreamClosed):
        await learn.flush()


# --- cancelled


@pytest.mark.parametrize("turns", range(TURNS))
async def test_a_step_cancelled_after_any_turn_leaves_the_stream_in_order(client, server, turns):
    async with client.stream("m", "s") as stream:
        step = asyncio.create_task(stream.step(1.0))
        await turned(turns)
        await cancelled(step)
        forecast = await stream.step(2.0)
        assert server.rows()[-1] == [2.0]
        assert server.rows()[:-1] in ([], [[1.0]])
        assert forecast.seq == len(server.rows())
    assert server.hellos == 1, "cancelling costs no call"


@pytest.mark.parametrize("turns", range(0, TURNS, 2))
async def test_a_label_a_reset_and_a_wait_cancelled_after_any_turn_leave_the_stream_in_order(client, server, turns):
    async with client.stream("m", "s") as stream:
        await stream.step(1.0)
        for wait in (stream.label(1, 3.0), stream.reset(), stream.durable(), stream.wait_judged(1)):
            task = asyncio.create_task(wait)
            await turned(turns)
            await cancelled(task)
        await stream.label(1, 4.0)
        assert (await stream.step(2.0)).seq == 2
        await stream.durable()
    assert server.labels[-1] == (1, [4.0])
    assert server.hellos == 1


@pytest.mark.parametrize("turns", range(0, TURNS, 2))
async def test_a_wait_for_forecasts_cancelled_after_any_turn_loses_none(client, server, turns):
    async with client.stream("m", "s", in_flight=3) as stream:
        forecasts = stream.forecasts(np.arange(12.0))
        seqs: list[int] = []
        while len(seqs) < 12:
            wait = asyncio.create_task(forecasts.several())
            await turned(turns)
            if not wait.done():
                wait.cancel()
            await asyncio.wait({wait})
            seqs += [] if wait.cancelled() else [forecast.seq for forecast in wait.result()]
            turns += 1
        await forecasts.aclose()
    assert seqs == list(range(1, 13))
    assert server.hellos == 1


async def test_a_source_that_is_stopped_while_its_tick_is_being_written_does_not_end_the_call(client, server):
    async with client.stream("m", "s") as stream:
        for turns in range(20):
            forecasts = stream.forecasts(np.arange(50.0))
            await anext(forecasts)
            await turned(turns)
            await forecasts.aclose()
        await stream.step(1.0)
    assert server.hellos == 1


@pytest.mark.parametrize("turns", range(0, TURNS, 2))
async def test_items_cancelled_after_any_turn_leave_a_sender_in_order(client, server, turns):
    async with client.learn("m", "source", in_flight=2) as learn:
        for n in range(4):
            task = asyncio.create_task(learn.window([[float(n)]], 1.0) if n % 2 else learn.label("s", n + 1, 1.0))
            await turned(turns if n else 0)
            await cancelled(task)
            flush = asyncio.create_task(learn.flush())
            await turned(turns)
            await cancelled(flush)
        await learn.window([[9.0]], 1.0)
        await learn.flush()
        assert learn.next_window == len(server.windows) + 1
    assert np.frombuffer(server.windows[-1], "<f4").tolist() == [9.0]


@pytest.mark.parametrize("turns", range(0, TURNS, 2))
async def test_opening_and_closing_cancelled_after_any_turn_leave_nothing_running(client, server, turns):
    before = asyncio.all_tasks()
    for made in (client.stream("m", "s"), client.learn("m", "source"), client.mux("m")):
        opening = asyncio.create_task(made.open())
        await turned(turns)
        await cancelled(opening)
        closing = asyncio.create_task(made.aclose())
        await turned(turns)
        await cancelled(closing)
        await made.aclose()
        with pytest.raises(freshet.FreshetError):
            await made.open()
    for _ in range(1000):
        if not (asyncio.all_tasks() - before):
            break
        await asyncio.sleep(0)
    left: list[Any] = [task.get_coro() for task in asyncio.all_tasks() - before]
    left = [coroutine for coroutine in left if "freshet/" in coroutine.cr_code.co_filename]
    assert not left
