"""One event time of a wrong clock is refused alone and by name, or undone by the reset that the refusal names."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import freshet
from freshet.v1 import streams_pb2 as pb
from freshet.v1 import types_pb2
from tests.journeys.raw import RawStream

TIME = types_pb2.Refused.TIME
FUTURE = 4070908800.0  # 2099-01-01
START = 1.6e9
MINUTE = 60.0
SPEC: dict[str, Any] = {"interval": MINUTE, "hidden": 4, "learn": False}
DAY = 86_400.0


async def test_a_tick_of_another_century_is_refused_and_true_ones_are_accepted(server, channel):
    async with freshet.connect(server.grpc) as client:
        await client.create_model("clocks", ["a"], **SPEC)
    async with RawStream(channel, "clocks", "raw") as stream:
        assert (await stream.tick(1, [1.0], START)).HasField("forecast")

        refused = (await stream.tick(2, [2.0], FUTURE)).refused

        assert (refused.reason, refused.field) == (TIME, "time")
        assert "2099-01-01T00:00:00Z" in refused.value
        assert "max_ahead_s" in refused.remedy
        assert (await stream.tick(2, [2.0], START + MINUTE)).HasField("forecast")
        assert (await stream.tick(3, [2.0], time.time() + DAY / 2)).HasField("forecast")

        refused = (await stream.tick(4, [3.0], START + 2 * MINUTE)).refused

        assert "reset the stream" in refused.remedy
        await stream.say(reset=pb.Reset())
        assert (await stream.tick(4, [3.0], START + 2 * MINUTE)).HasField("forecast")


async def test_packed_ticks_of_another_century_are_refused_alone(server):
    async with freshet.connect(server.grpc) as client:
        await client.create_model("packed-clocks", ["a"], **SPEC)
        async with client.mux("packed-clocks") as mux:
            ids = ["good", "wrong", "milliseconds"]

            first = await mux.step(ids, np.ones((3, 1)), [START, FUTURE, 1e3 * START])
            second = await mux.step(ids, np.ones((3, 1)), START + MINUTE)

    refused = {row: error for row, error in first.refused.items() if isinstance(error, freshet.TickRefused)}
    assert {row: error.field for row, error in refused.items()} == {1: "time", 2: "time"}
    assert refused.keys() == first.refused.keys()
    assert "2099-01-01" in refused[1].value
    assert "as milliseconds" in refused[2].remedy
    assert not second.refused


async def test_a_state_that_would_make_every_true_tick_refused_is_refused(server):
    async with freshet.connect(server.grpc) as client:
        await client.create_model("put-clocks", ["a"], **SPEC)
        async with client.stream("put-clocks", "s") as stream:
            await stream.step([1.0], START)
        state = await client.get_stream("put-clocks", "s", with_state=True)
        with pytest.raises(freshet.InvalidArgument, match="last_time = 2099-01-01T00:00:00Z"):
            await client.put_stream(replace(state, last_time=FUTURE))
        await client.put_stream(replace(state, last_time=float(math.floor(START))))
