"""A live stream changes its server or its owner, while others go on: no output changes, and one owner at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

import freshet
from tests.journeys import crash
from tests.journeys.crash import within
from tests.journeys.test_packed_client import SPEC, walk
from tests.oracles.unbroken import Unbroken

TICKS = 10  # between two moves


@contextlib.asynccontextmanager
async def load(client: freshet.Client) -> AsyncIterator[list[int]]:
    """Eight other streams tick meanwhile, as fast as they are answered; yields the count of messages, in a list."""
    answered, stop = [0], asyncio.Event()

    async def ticking() -> None:
        async with client.mux("flow") as mux:
            while not stop.is_set():
                answers = await mux.step([f"other-{i}" for i in range(8)], np.full((8, 2), answered[0] % 7, np.float32))
                assert not answers.refused, answers.refused
                answered[0] += 1

    task = asyncio.create_task(ticking())
    try:
        yield answered
    finally:
        stop.set()
        await within(task)


async def move_to_and_fro(tmp_path: Path, moves: int) -> None:
    """So many moves of one stream between two servers under load; each answer must be that of an unbroken stream."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    x = walk(moves * TICKS, 1, 5)[:, 0]
    async with (
        crash.servers(tmp_path / "a", tmp_path / "b") as (a, b),
        freshet.connect(a.grpc) as here,
        freshet.connect(b.grpc) as there,
    ):
        model = await here.create_model("flow", **SPEC)
        await there.create_model("flow", **SPEC)
        oracle = Unbroken(model, await here.export("flow"))
        async with load(here) as at_a, load(there) as at_b:
            for move in range(moves):
                async with here.stream("flow", "pump") as stream:
                    assert stream.next_seq == move * TICKS + 1
                    for row in x[move * TICKS : (move + 1) * TICKS]:
                        oracle.agrees((await within(stream.step(row))).y, row)
                kept = await here.get_stream("flow", "pump", with_state=True)
                await there.put_stream(kept)
                await here.delete_stream("flow", "pump")
                with pytest.raises(freshet.NotFound):
                    await here.get_stream("flow", "pump")
                here, there = there, here
        assert min(at_a[0], at_b[0]) > 0, "there was no load"


async def test_a_stream_that_moves_between_two_servers_under_load_is_answered_as_if_it_had_stayed(tmp_path):
    await move_to_and_fro(tmp_path, moves=4)


@pytest.mark.long
async def test_a_move_that_left_the_state_behind_would_be_noticed(tmp_path, monkeypatch):
    forgetful = """
import service.streams.served as s
put = s.ServedModel._put
def without_state(model, row, record, offset):
    put(model, row, record, offset)
    model.table.state[row] = 0
s.ServedModel._put = without_state
"""
    crash.mutate(monkeypatch, tmp_path, forgetful)

    with pytest.raises(AssertionError, match="expected"):
        await move_to_and_fro(tmp_path, moves=2)


async def test_an_owner_that_came_back_after_a_kill_is_fenced_by_the_next_one_too(tmp_path):
    x = walk(20, 1, 6)[:, 0]
    async with crash.a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        model = await client.create_model("flow", **SPEC)
        oracle = Unbroken(model, await client.export("flow"))
        with pytest.raises(freshet.TakenOver):  # noqa: PT012  # entering and leaving are part of the story
            async with client.stream("flow", "pump") as first:
                for row in x[:8]:
                    oracle.agrees((await within(first.step(row))).y, row)
                await within(first.durable())
                before = (await client.get_stream("flow", "pump")).epoch
                server.kill()
                await server.wait()
                await server.start()
                oracle.agrees((await within(first.step(x[8]))).y, x[8])
                again = (await client.get_stream("flow", "pump")).epoch
                async with freshet.connect(server.grpc) as other, other.stream("flow", "pump") as second:
                    assert second.next_seq == 10
                    with pytest.raises(freshet.TakenOver):
                        await within(first.step(x[9]))
                    for row in x[9:]:
                        oracle.agrees((await within(second.step(row))).y, row)
                    last = (await client.get_stream("flow", "pump")).epoch
                await first.step(x[0])
        assert before < again < last
