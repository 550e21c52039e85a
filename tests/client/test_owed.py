"""How long a call may owe an answer: one rule, for streams and Muxes."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import freshet
from freshet.owed import LOOKS, Owed
from freshet.v1 import streams_pb2 as pb
from tests.client.fake_server import FakeServer

DEADLINE_S = 60.0


async def lateness(begins: float, messages: list[float]) -> int:
    """Return the look that finds a call late, in simulated time: looks are at 1, 2, 3 … It owes an answer from `begins`
    on, and messages that are not the answer come at the given times."""
    now, quiet = 0, []
    owed = Owed(lambda: begins < now, 1.0, lambda: quiet.append(now))
    events = sorted(messages)
    while not owed.late:
        now += 1
        while events and events[0] < now:
            owed.heard()
            del events[0]
        owed.look()
    assert quiet == [look for look in range(1, now) if look <= begins]
    return now


@given(begins=st.floats(0, 50), messages=st.lists(st.floats(0, 60), max_size=12))
async def test_a_call_is_late_once_it_has_owed_an_answer_in_silence_for_answer_s_and_at_most_a_quarter_later(
    begins, messages
):
    found = await lateness(begins, messages)
    silent_since = max([begins, *(at for at in messages if at < found)])
    assert LOOKS <= found - silent_since <= LOOKS + 1
    heard = sorted({begins, *(at for at in messages if begins < at < found)})
    assert all(after - before <= LOOKS + 1 for before, after in itertools.pairwise(heard))


class Cut:
    """A call that notes that it was cancelled."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    def cancel(self) -> None:
        self.cancelled.set()


async def test_a_call_is_cut_only_while_it_owes_an_answer():
    quiet, owing = Cut(), Cut()
    owes_nothing = Owed(lambda: False, 0.01)
    late = Owed(lambda: True, 0.2)  # twenty times as long
    watches = [asyncio.create_task(owes_nothing.watch(quiet)), asyncio.create_task(late.watch(owing))]
    await owing.cancelled.wait()
    assert not quiet.cancelled.is_set()
    assert (owes_nothing.cut, late.cut) == ("cut: the server was shutting down", "cut: no answer for 0.2 s")
    for watch in watches:
        watch.cancel()
    await asyncio.gather(*watches, return_exceptions=True)


# --- in a stream and a Mux


class Looks:
    """Counts the looks at all calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self._another, look = 0, asyncio.Condition(), Owed.look

        def counted(owed: Owed) -> None:
            look(owed)
            self.count += 1
            self._notified = asyncio.create_task(self._notify())

        monkeypatch.setattr(Owed, "look", counted)

    async def _notify(self) -> None:
        async with self._another:
            self._another.notify_all()

    async def further(self, count: int) -> None:
        """Wait for `count` looks from now on."""
        wanted = self.count + count
        async with self._another:
            await asyncio.wait_for(self._another.wait_for(lambda: self.count >= wanted), DEADLINE_S)


def hold_up(seconds: float) -> None:
    """Let nothing else run in this event loop, as a program that computes does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.fixture
async def server():
    server = FakeServer()
    server.commit_every = None  # it sends no Durable either
    await server.start()
    yield server
    await server.stop()


async def taken(server: FakeServer, count: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while len(server.received) < count:
            await asyncio.sleep(0)


async def continues(server: FakeServer, stream: freshet.Stream, step: asyncio.Task[freshet.Forecast]) -> None:
    """The answer to the second tick comes late, and in the same call, which continues."""
    taken = server.streams["s"]
    assert taken.call is not None
    taken.call.send(forecast=pb.Forecast(seq=len(taken.ticks), y=taken.answers[-1].ravel(), version=1))
    taken.call.mute = False
    assert [(await step).seq, (await stream.step(3.0)).seq] == [2, 3]
    assert server.hellos == 1


async def test_a_stream_that_was_silent_for_longer_has_all_of_answer_s_for_its_next_tick(server, monkeypatch):
    looks = Looks(monkeypatch)
    async with (
        freshet.connect(f"127.0.0.1:{server.port}") as client,
        client.stream("m", "s", answer_s=1.6) as stream,
    ):
        await stream.step(1.0)
        await looks.further(LOOKS + 1)
        server.streams["s"].call.mute = True
        step = asyncio.create_task(stream.step(2.0))
        await taken(server, 2)
        await looks.further(1)
        await continues(server, stream, step)


async def test_a_stream_whose_program_holds_up_its_loop_for_longer_is_not_cut(server, monkeypatch):
    """The look that was due comes before the answer is read: the client, not the server, was away."""
    looks = Looks(monkeypatch)
    async with (
        freshet.connect(f"127.0.0.1:{server.port}") as client,
        client.stream("m", "s", answer_s=1.6) as stream,
    ):
        await stream.step(1.0)
        server.streams["s"].call.mute = True
        step = asyncio.create_task(stream.step(2.0))
        await taken(server, 2)
        hold_up(2.0)
        await looks.further(1)
        await continues(server, stream, step)


async def test_a_mux_whose_program_holds_up_its_loop_for_longer_is_not_cut(client, fake, monkeypatch):
    looks = Looks(monkeypatch)
    async with client.mux("m", answer_s=1.6, close_s=0.0) as mux:
        await mux.step(["a"], [1.0])
        fake.answering.clear()
        step = asyncio.create_task(mux.step(["a"], [2.0]))
        await fake.until_taken("a", 2)
        await looks.further(1)
        hold_up(2.0)
        await looks.further(1)
        fake.answering.set()
        assert [(await step).seq, (await mux.step(["a"], [3.0])).seq] == [2, 3]
        assert fake.calls == [["a"]]
