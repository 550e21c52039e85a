"""The SDK's Mux, and its hands on single streams, against a real server that is sometimes killed."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from typing import Any

import numpy as np
import pytest

import freshet
from tests.journeys import crash
from tests.oracles.unbroken import Unbroken

SETTINGS = {"snapshot_s": 0.2, "idle_s": 0.0}
SPEC: dict[str, Any] = {"channels": ["a", "b"], "learn": False, "head_init": 0.3, "hidden": 8}
DEADLINE_S = 60.0


def walk(rows: int, streams: int, seed: int) -> np.ndarray:
    """[rows, streams, 2]"""
    return np.cumsum(np.random.default_rng(seed).standard_normal((rows, streams, 2)), axis=0).astype(np.float32)


async def test_packed_streams_answer_as_an_uninterrupted_one_each(client, name):
    model = await client.create_model(name, **SPEC)
    exported = await client.export(name)
    ids, x = [f"m{i}" for i in range(7)], walk(40, 7, 1)
    alone = [Unbroken(model, exported) for _ in ids]
    async with asyncio.timeout(DEADLINE_S), client.mux(name) as mux:
        for t, rows in enumerate(x):
            answers = await mux.step(ids, rows)
            assert not answers.refused
            assert answers.seq.tolist() == [t + 1] * 7
            for i, oracle in enumerate(alone):
                oracle.agrees(answers.y[i], rows[i])

    assert [(s.stream, s.last_seq) async for s in client.list_streams(name, page_size=3)] == [(id, 40) for id in ids]


async def test_several_ticks_of_one_stream_in_a_step_are_successive(client, name):
    model = await client.create_model(name, **SPEC)
    oracle = Unbroken(model, await client.export(name))
    x = walk(600, 1, 2)[:, 0]
    async with asyncio.timeout(DEADLINE_S), client.mux(name) as mux:
        answers = await mux.step(["pump"] * 600, x)

    for row, y in zip(x, answers.y, strict=True):
        oracle.agrees(y, row)


async def test_a_refused_row_is_told_by_index_and_its_stream_goes_on(client, name):
    await client.create_model(name, **SPEC)
    async with asyncio.timeout(DEADLINE_S), client.mux(name) as mux:
        answers = await mux.step(["a", "b"], [[1, 2], [np.nan, 2]])
        assert list(answers.refused) == [1]
        assert isinstance(answers.refused[1], freshet.TickRefused)
        assert np.isnan(answers.y[1]).all()
        assert answers.version.tolist() == [1, 0]
        again = await mux.step(["a", "b"], [[1, 2], [3, 2]])
        assert again.seq.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("x", "time", "field"),
    [([[1, 2, 3]], 60.0, "x"), ([1, 2], 60.0, "x"), ([[1, 2]], None, "time"), ([[1, 2]], [60.0, 120.0], "time")],
)
async def test_a_step_of_another_shape_is_refused_before_anything_is_sent(client, name, x, time, field):
    await client.create_model(name, interval=60.0, **SPEC)
    async with asyncio.timeout(DEADLINE_S), client.mux(name) as mux:
        with pytest.raises(freshet.InvalidArgument) as caught:
            await mux.step(["a"], x, time)
        assert caught.value.field == field
        assert (await mux.step(["a"], [[1, 2]], 60.0)).seq.tolist() == [1]


async def test_a_stream_that_another_client_opens_is_refused_as_taken_over_and_can_be_taken_back(client, name):
    await client.create_model(name, **SPEC)
    async with asyncio.timeout(DEADLINE_S), client.mux(name) as mux:
        await mux.step(["a", "b"], [[1, 2], [1, 2]])
        async with client.stream(name, "a") as stream:
            await stream.step([3.0, 4.0])
        answers = await mux.step(["a", "b"], [[5, 6], [5, 6]])
        if answers.refused:  # where the news had not come yet
            assert isinstance(answers.refused[0], freshet.TakenOver | freshet.TickRefused)
            answers = await mux.step(["a"], [[5, 6]])
        assert answers.seq[0] == 3


async def test_a_model_that_there_is_not_is_named(client):
    with pytest.raises(freshet.NotFound):
        async with client.mux("no-such-model"):
            pass


async def test_a_killed_server_costs_no_tick_and_changes_no_forecast(tmp_path):
    """Killed three times under load; what was answered and not on disk is sent again, and answered the same."""
    ids, x = [f"m{i}" for i in range(20)], walk(120, 20, 3)
    async with crash.a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        model = await client.create_model("flow", **SPEC)
        exported = await client.export("flow")
        alone = [Unbroken(model, exported) for _ in ids]
        async with asyncio.timeout(4 * DEADLINE_S), client.mux("flow") as mux:
            for t, rows in enumerate(x):
                if t in (30, 31, 90):
                    server.kill()
                    await server.wait()
                    await server.start()
                answers = await mux.step(ids, rows)
                assert not answers.refused, answers.refused
                assert not answers.lost
                assert answers.seq.tolist() == [t + 1] * 20
                for i, oracle in enumerate(alone):
                    oracle.agrees(answers.y[i], rows[i])


async def test_a_stream_is_taken_along_to_another_server(tmp_path, client, name):
    model = await client.create_model(name, **SPEC)
    exported = await client.export(name)
    oracle, x = Unbroken(model, exported), walk(20, 1, 4)[:, 0]
    async with asyncio.timeout(2 * DEADLINE_S):
        async with client.stream(name, "pump") as stream:
            for row in x[:10]:
                oracle.agrees((await stream.step(row)).y, row)
        kept = await client.get_stream(name, "pump", with_state=True)
        async with crash.a_server(tmp_path) as other, freshet.connect(other.grpc) as there:
            await there.create_model(name, **SPEC)
            assert (await there.put_stream(kept)).last_seq == 10
            async with there.stream(name, "pump") as stream:
                for row in x[10:]:
                    oracle.agrees((await stream.step(row)).y, row)
        await client.delete_stream(name, "pump")
        with pytest.raises(freshet.NotFound):
            await client.get_stream(name, "pump")


async def test_steps_cancelled_at_any_moment_leave_every_stream_in_order(client, name):
    model = await client.create_model(name, **SPEC)
    ids, x = ["a", "b"], walk(120, 2, 5)
    oracle = Unbroken(model, await client.export(name))
    async with asyncio.timeout(2 * DEADLINE_S), client.mux(name) as mux:
        for turns, rows in enumerate(x):
            step = asyncio.create_task(mux.step(ids, rows))
            for _ in range(turns // 2):
                await asyncio.sleep(0)
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(mux.step(["c"], rows[:1]), 0.0001 * (turns % 20))
        answers = await mux.step(["a", "b", "new", "new"], np.ones((4, 2)))
        assert not answers.refused
        taken = {s.stream: s.last_seq async for s in client.list_streams(name)}
        assert [taken[id] for id in ["a", "b", "new"]] == [*answers.seq[:2].tolist(), 2]
        for i in (2, 3):
            oracle.agrees(answers.y[i], np.ones(2, np.float32))


async def test_steps_of_one_stream_cancelled_at_any_moment_leave_it_in_order(client, name):
    await client.create_model(name, **SPEC)
    async with asyncio.timeout(2 * DEADLINE_S), client.stream(name, "pump") as stream:
        for turns, row in enumerate(walk(120, 1, 6)[:, 0]):
            step = asyncio.create_task(stream.step(row))
            for _ in range(turns // 2):
                await asyncio.sleep(0)
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)
        forecast = await stream.step([1.0, 2.0])
        assert forecast.seq == (await client.get_stream(name, "pump")).last_seq
        assert stream.reconnects == 0


@pytest.mark.parametrize("bad", [1.5, "", None, "a\tb", "x" * 257, ["a"]], ids=lambda bad: repr(bad)[:9])
async def test_a_bad_id_is_refused_alone(client, name, bad):
    await client.create_model(name, **SPEC)
    async with asyncio.timeout(DEADLINE_S), client.mux(name) as mux:
        for seq in (1, 2):
            answers = await mux.step(["a", bad, "b"], np.ones((3, 2)))
            assert list(answers.refused) == [1]
            assert answers.seq.tolist() == [seq, 0, seq]


async def test_a_mux_is_told_of_a_server_restored_from_an_earlier_copy_and_goes_on(tmp_path):
    ids, x = ["a", "b"], walk(30, 2, 7)
    async with crash.a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SPEC)
        async with asyncio.timeout(4 * DEADLINE_S), client.mux("flow") as mux:
            for rows in x[:5]:
                await mux.step(ids, rows)
            assert await server.stop() == 0
            shutil.copytree(server.data, tmp_path / "copy")
            await server.start()
            for rows in x[5:20]:
                await mux.step(ids, rows)
            assert await server.stop() == 0
            shutil.rmtree(server.data)
            shutil.copytree(tmp_path / "copy", server.data)
            await server.start()

            with pytest.raises(freshet.StateLost) as caught:
                await mux.step(ids, x[20])

            assert caught.value.streams == ("a", "b")
            answers = await mux.step([*ids, "new"], np.ones((3, 2)))
            assert (answers.refused, answers.seq.tolist()) == ({}, [6, 6, 1])
