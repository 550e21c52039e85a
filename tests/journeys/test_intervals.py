"""Prediction intervals through a real server: every door gives the same bounds, also for a repeated tick."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

import freshet
from freshet.v1 import streams_pb2 as pb
from tests.journeys.raw import RawStream
from tests.journeys.raw_mux import RawMux
from tests.oracles.unbroken import TOLERANCE, Unbroken

LEVELS = [0.5, 0.9]
SPEC: dict[str, Any] = {
    "channels": ["a", "b"], "horizon": 2, "learn": False, "head_init": 0.3, "hidden": 8, "intervals": LEVELS,
    "forecaster": "network",
}  # fmt: skip
DEADLINE_S = 60.0


def walk(rows: int) -> np.ndarray:
    return np.cumsum(np.random.default_rng(1).standard_normal((rows, 2)), axis=0).astype(np.float32)


async def test_the_bounds_of_stream_and_mux_are_those_of_the_exported_version(client, name):
    model = await client.create_model(name, **SPEC)
    assert model.spec.intervals == (0.5, 0.9)
    oracle, rows = Unbroken(model, await client.export(name)), walk(30)
    async with asyncio.timeout(DEADLINE_S), client.stream(name, "s") as stream, client.mux(name) as mux:
        for t, row in enumerate(rows):
            expected, unit = oracle.answer(row)
            one, packed = await stream.step(row), await mux.step(["m"], row[None])
            for n, level in enumerate(LEVELS):
                for got in (one.between(level), [bound[0] for bound in packed.between(level)]):
                    for bound, end in zip(got, expected[1:], strict=True):
                        np.testing.assert_allclose(bound, end[n], atol=3 * TOLERANCE * unit.max(), rtol=2e-6)
            unknown = 2 - min(t, 2)  # steps over which no change was seen
            assert np.isnan(one.lower(0.9)).all(axis=1).sum() == unknown
    assert (one.lower(0.9) < one.lower(0.5)).all()
    assert (one.upper(0.5) < one.upper(0.9)).all()
    with pytest.raises(freshet.InvalidArgument, match=r"level = 0.8; give one of the model's intervals: 0.5, 0.9"):
        one.lower(0.8)


async def test_a_repeated_tick_gets_the_same_bounds(client, channel, name):
    await client.create_model(name, **SPEC)
    rows = walk(20)
    async with RawStream(channel, name, "s") as stream:
        first = [await stream.tick(t + 1, row) for t, row in enumerate(rows)]
        again = [await stream.tick(t + 1, rows[t]) for t in (18, 19)]
    assert len(first[-1].forecast.lower) == len(first[-1].forecast.upper) == 2 * 2 * 2
    assert again == first[18:]
    async with RawMux(channel, name) as mux:
        await mux.bind({3: "s"})
        await mux.say(
            ticks=pb.Columns(
                handle=np.array([3], np.uint32).tobytes(), seq=np.array([20], np.uint64).tobytes(), x=rows[19].tobytes()
            )
        )
        packed = (await mux.answer()).forecasts
    assert np.frombuffer(packed.lower, "<f4").tolist() == list(first[19].forecast.lower)
    assert np.frombuffer(packed.upper, "<f4").tolist() == list(first[19].forecast.upper)
    assert np.frombuffer(packed.y, "<f4").tolist() == list(first[19].forecast.y)


async def test_without_intervals_no_bound_is_sent(client, channel, name):
    await client.create_model(name, **SPEC | {"intervals": []})
    async with RawStream(channel, name, "s") as stream:
        answer = await stream.tick(1, [1.0, 2.0])
    assert {field.name for field, _ in answer.forecast.ListFields()} <= {"seq", "y", "version", "judged_through"}
    async with client.stream(name, "t") as stream:
        forecast = await stream.step([1.0, 2.0])
    assert forecast.bounds is None
    with pytest.raises(freshet.InvalidArgument, match="the model has no intervals"):
        forecast.upper(0.9)


async def test_a_frame_has_a_column_for_each_bound_and_an_offset_is_added_to_all(client, name):
    await client.create_model(name, **SPEC)
    rows = walk(10)
    async with asyncio.timeout(DEADLINE_S):
        async with client.stream(name, "s") as stream:
            plain = await stream.forecasts({"a": rows[:, 0], "b": rows[:, 1]}).frame()
        async with client.stream(name, "t", offset=1e6) as stream:
            moved = await stream.forecasts(
                {"a": 1e6 + rows[:, 0].astype(float), "b": 1e6 + rows[:, 1].astype(float)}
            ).frame()
    ends = ["", "_lower50", "_upper50", "_lower90", "_upper90"]
    assert list(plain) == [f"{c}+{h}{end}" for end in ends for c in "ab" for h in (1, 2)]
    for column, values in plain.items():
        np.testing.assert_allclose(moved[column] - 1e6, values, rtol=1e-5, atol=1e-5)
    assert (plain["a+1_lower90"][1:] < plain["a+1_lower50"][1:]).all()
    assert (plain["a+1_upper50"][1:] < plain["a+1_upper90"][1:]).all()
