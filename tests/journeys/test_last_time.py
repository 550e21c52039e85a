"""The last event time of a stream, told when it is opened: after a restart, a kill, eviction from memory, a move."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

import freshet
from tests.journeys import crash
from tests.journeys.raw import channel_to
from tests.journeys.raw_mux import RawMux
from tests.journeys.scraped import scraped_until

DEADLINE_S = 60.0


async def found(client: freshet.Client, stream: str) -> float | None:
    async with client.stream("flow", stream) as opened:
        assert opened.last_time == opened.welcome.last_time
        return opened.last_time


async def test_the_last_event_time_outlives_restarts_kills_eviction_and_moves(tmp_path):
    async with (
        asyncio.timeout(4 * DEADLINE_S),
        crash.a_server(tmp_path, idle_s=0, snapshot_s=0.1) as server,
        freshet.connect(server.grpc) as client,
    ):
        await client.create_model("flow", ["x"], hidden=4, learn=False)
        assert await found(client, "pump") is None
        async with client.stream("flow", "pump") as stream:
            for time in (1.7e9 + 0.25, 1.7e9 + 1.5):
                await stream.step([1.0], time=time)
                assert stream.last_time == time
            await stream.step([1.0])  # one without a time leaves it as it is
            with pytest.raises(freshet.TickRefused):
                await stream.step([1.0], time=1.7e9)
        last = 1.7e9 + 1.5
        await scraped_until(server.http, lambda seen: seen.total("freshet_streams_resident", model="flow") == 0)
        assert await found(client, "pump") == last

        assert await server.stop() == 0
        await server.start()
        assert await found(client, "pump") == last
        server.kill()
        await server.wait()
        await server.start()
        assert await found(client, "pump") == last
        async with channel_to(server.grpc) as channel, RawMux(channel, "flow") as mux:
            bound = await mux.bind({0: "pump", 1: "new"})
            assert (bound[0].last_time, bound[1].HasField("last_time")) == (last, False)

        kept = await client.get_stream("flow", "pump", with_state=True)
        await client.put_stream(dataclasses.replace(kept, stream="moved"))
        assert await found(client, "moved") == last
        async with client.stream("flow", "moved") as stream:
            await stream.reset()
            await stream.step([1.0])
        assert await found(client, "moved") is None
