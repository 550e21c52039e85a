"""A Mux whose server takes messages and answers none: its call is cut and repeated, and its error says what waited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import freshet
from freshet.calls import Opener


async def test_a_call_that_owes_an_answer_for_too_long_is_cut_and_its_ticks_sent_again(client, fake):
    async with client.mux("m", answer_s=0.5, close_s=0.0) as mux:
        await mux.step(["a", "b"], [1.0, 1.0])
        fake.silent = {"a"}
        step = asyncio.create_task(mux.step(["a", "b"], [2.0, 3.0]))
        await fake.until_taken("a", 2)
        fake.silent = set()

        packed = await step

        assert (packed.y.ravel().tolist(), packed.seq.tolist()) == ([2.0, 3.0], [2, 2])
        assert [fake.streams[id].rows for id in "ab"] == [[1.0, 2.0], [1.0, 3.0]]
        assert fake.calls == [["a", "b"]] * len(fake.calls)
        assert len(fake.calls) > 1


async def test_a_call_that_binds_nothing_is_cut_and_repeated(client, fake):
    async with client.mux("m", answer_s=0.5, close_s=0.0) as mux:
        fake.binding.clear()
        step = asyncio.create_task(mux.step(["a"], [1.0]))
        async with fake.asked:
            await fake.asked.wait_for(lambda: len(fake.calls) >= 2 and fake.calls[1] == ["a"])
        fake.binding.set()
        assert (await step).seq.tolist() == [1]


class HeldUp:
    """A call whose writes are held up once `held` is set, as by a server that does not read, and its end reaches the
    writer before the reader: gRPC cancels both, in any order."""

    def __init__(self, call: Any, held: asyncio.Event) -> None:
        self._call, self._held = call, held
        self._cancelled, self._ended = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def cancel(self) -> bool:
        self._cancelled.set()
        return bool(self._call.cancel())

    async def write(self, message: Any) -> None:
        if not self._held.is_set():
            return await self._call.write(message)
        await self._cancelled.wait()
        self._ended.set()
        raise asyncio.CancelledError

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for message in self._call:
                yield message
        except asyncio.CancelledError:
            if self._held.is_set():
                await self._ended.wait()
            raise


@pytest.mark.parametrize("leaves", [True, False], ids=["it leaves", "it is stuck"])
async def test_a_call_that_is_cut_while_its_server_does_not_read_is_made_again(client, fake, monkeypatch, leaves):
    """The write that is held up ends as cancelled; the Mux went on without a task that calls."""
    monkeypatch.setattr("freshet.leg.LEAVE_S", 0.01)
    held, opened = asyncio.Event(), Opener.open
    monkeypatch.setattr(
        Opener, "open", lambda opener: HeldUp(opened(opener), held if not fake.calls else asyncio.Event())
    )
    async with client.mux("m", answer_s=60.0 if leaves else 0.5, give_up_s=10.0, close_s=0.0) as mux:
        await mux.step(["a"], [1.0])
        held.set()
        step = asyncio.create_task(mux.step(["a", "b"], [2.0, 1.0]))
        if leaves:
            await fake.until(1, ["a"])
            fake.leave()
        assert (await step).seq.tolist() == [2, 1]
        assert len(fake.calls) == 2


@pytest.mark.parametrize("wrong", [0, -1.0])
def test_the_longest_silence_is_above_zero(wrong):
    with freshet.sync.connect("127.0.0.1:1") as client, pytest.raises(freshet.InvalidArgument) as refused:
        client.mux("m", answer_s=wrong)
    assert refused.value.field == "answer_s"


async def test_the_error_of_a_step_that_waited_too_long_says_what_waited_and_where(client, fake):
    mux = await client.mux("m", give_up_s=1.0, close_s=0.0).open()
    await mux.step(["a", "b"], [1.0, 1.0])
    fake.binding.clear()
    with pytest.raises(freshet.Unavailable, match="waiting for 1 streams to be bound") as raised:
        await mux.step(["c"], [1.0])
    state = "3 streams, 1 not bound, 0 not asked for, 0 messages to write, no message for "
    assert f"; 127.0.0.1:{fake.port}: {state}" in str(raised.value)
