"""Packed ticks against a server that binds and answers when the test says so."""

from __future__ import annotations

import asyncio

import numpy as np
import pandas
import pytest

import freshet


@pytest.mark.parametrize("turns", range(12))
async def test_a_first_step_finds_its_streams_bound_however_far_the_call_is_open(client, turns):
    """Once, streams that came while the call was being opened were never asked for."""
    async with client.mux("m") as mux:
        for _ in range(turns):
            await asyncio.sleep(0)  # one turn of the loop

        packed = await mux.step(["a", "b", "a"], [1.0, 2.0, 3.0])

        assert packed.y.ravel().tolist() == [1.0, 2.0, 3.0]
        assert packed.seq.tolist() == [1, 1, 2]


async def test_a_stream_that_comes_while_others_are_being_bound_again_is_asked_for(client, fake):
    async with client.mux("m") as mux:
        await mux.step(["a"], [1.0])
        fake.binding.clear()
        fake.end.set()
        await fake.until(2, ["a"])  # a new call, not bound yet

        step = asyncio.create_task(mux.step(["b", "a"], [5.0, 6.0]))
        await fake.until(2, ["a"])
        fake.binding.set()
        packed = await step

        assert fake.calls == [["a"], ["a", "b"]]
        assert (packed.y.ravel().tolist(), packed.seq.tolist()) == ([5.0, 6.0], [1, 2])


@pytest.mark.parametrize("turns", range(0, 60, 12))
async def test_a_step_of_several_messages_outlasts_the_end_of_a_call_at_any_moment(client, fake, monkeypatch, turns):
    monkeypatch.setattr("freshet.batch.MESSAGE_BYTES", 48)  # two ticks a message
    ids = [f"s{n}" for n in range(9)]
    async with client.mux("m", close_s=0.0) as mux:
        await mux.step(ids, np.zeros(9))
        step = asyncio.create_task(mux.step(ids, np.arange(9.0)))
        for _ in range(turns):
            await asyncio.sleep(0)
        fake.end.set()
        packed = await step

        assert not packed.refused, packed
        assert packed.y.ravel().tolist() == list(range(9))


async def test_ids_rows_and_times_may_be_columns_of_a_frame(client, fake):
    frame = pandas.DataFrame({"id": ["a", "b"], "x": [1, None], "when": pandas.DatetimeIndex(["2024-01-01"] * 2)})
    async with client.mux("m") as mux:
        packed = await mux.step(frame["id"], frame[["x"]], frame["when"])
        np.testing.assert_array_equal(packed.y.ravel(), [1.0, np.nan])
        with pytest.raises(freshet.InvalidArgument, match="no column 'x' and 'when', which is not a channel"):
            await mux.step(frame["id"], frame[["when"]])
