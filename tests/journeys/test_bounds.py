"""Limits of the server: it refuses what exceeds them, and everything within them continues."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import freshet
from freshet.v1 import streams_pb2 as pb
from freshet.v1 import types_pb2
from tests.journeys.raw import DEADLINE_S, RawStream, channel_to
from tests.oracles.unbroken import Unbroken

SETTINGS = {"max_undurable": 1, "max_streams": 3, "max_models": 1}

SERVING_ONLY: dict[str, Any] = {"learn": False, "head_init": 0.3, "hidden": 8}
ROWS = np.cumsum(np.random.default_rng(5).standard_normal((60, 2)), axis=0).astype(np.float32)


@pytest_asyncio.fixture(loop_scope="session")
async def oracle(client: freshet.Client) -> Unbroken:
    model = await client.create_model("only", ["a", "b"], **SERVING_ONLY)
    return Unbroken(model, await client.export("only"))


async def test_more_undurable_ticks_than_allowed_are_refused_until_the_disk_has_caught_up(channel, oracle):
    """With one undurable tick allowed, three arrive at once, 20 times; and until they were faster than the journal."""
    refused = 0
    async with asyncio.timeout(DEADLINE_S), RawStream(channel, "only", "hasty") as stream:
        assert stream.welcome.max_undurable == 1
        for first in itertools.count(1, 3):
            if first > len(ROWS) and refused:
                return
            seqs = (first, first + 1, first + 2)
            for seq in seqs:
                await stream.say(tick=pb.Tick(seq=seq, x=row_of(seq)))
            for answer in [await stream.answer() for _ in seqs]:
                seq = answer.forecast.seq or answer.refused.seq
                while answer.HasField("refused"):
                    assert answer.refused.reason in (types_pb2.Refused.OVERLOADED, types_pb2.Refused.GAP)
                    refused += answer.refused.reason == types_pb2.Refused.OVERLOADED
                    await stream.until_durable(seq - 1)
                    answer = await stream.tick(seq, row_of(seq))
                oracle.agrees(answer.forecast.y, row_of(seq))


def row_of(seq: int) -> Any:
    """The values of a tick; after all rows they begin again."""
    return ROWS[(seq - 1) % len(ROWS)]


async def test_the_sdk_keeps_the_bound_on_undurable_ticks_by_itself(client, oracle):
    async with asyncio.timeout(DEADLINE_S), client.stream("only", "polite") as stream:
        await answered(stream, oracle)


async def answered(stream: freshet.Stream, oracle: Unbroken) -> None:
    """All rows, from the initial state."""
    expected = iter(ROWS)
    async for forecast in stream.forecasts(ROWS):
        oracle.agrees(forecast.y, next(expected))


async def test_a_client_that_never_reads_delays_no_other_and_its_stream_can_be_taken_over(server, client, oracle):
    async with channel_to(server.grpc) as deaf_channel:
        deaf = await RawStream(deaf_channel, "only", "deaf").__aenter__()

        async def flood() -> None:
            while True:
                await deaf.call.write(pb.OpenRequest(tick=pb.Tick(seq=1, x=ROWS[0])))

        flooding = asyncio.create_task(flood())
        async with asyncio.timeout(DEADLINE_S), client.stream("only", "polite") as stream:
            await stream.reset()
            await answered(stream, oracle)
        async with client.stream("only", "deaf") as stream:
            assert stream.next_seq == 2
            oracle.reset()
            oracle.step(ROWS[0])
            oracle.agrees((await stream.step(ROWS[1])).y, ROWS[1])
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)


async def test_a_stream_beyond_the_servers_limit_is_refused_and_the_others_continue(client, channel, oracle):
    for known in ("hasty", "polite", "deaf"):
        async with RawStream(channel, "only", known):
            pass

    call = RawStream(channel)
    await call.say(hello=pb.Hello(model="only", stream="one too many"))
    error = await call.error()

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert retry_s(error) > 0
    async with RawStream(channel, "only", "hasty") as stream:
        assert (await stream.tick(stream.welcome.next_seq, ROWS[0])).HasField("forecast")


async def test_a_model_beyond_the_servers_limit_is_refused(client, oracle):
    with pytest.raises(freshet.ResourceExhausted) as caught:
        await client.create_model("another", ["a"])

    assert caught.value.retry_delay_s
    assert [m.name for m in await client.list_models()] == ["only"]


def retry_s(error: grpc.aio.AioRpcError) -> float:
    status = rpc_status.from_call(error)
    assert status is not None
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    return float(retry.retry_delay.seconds)
