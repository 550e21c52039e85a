"""A peer that says nothing any more, and never said goodbye."""

from __future__ import annotations

import asyncio

import pytest

import freshet
from freshet.client import channel_options
from tests.client.fake_server import FakeServer
from tests.client.proxy import Proxy

DEADLINE_S = 60.0
PINGS = 6  # more than gRPC sends by default while there is nothing to say
PONGS = 5  # a peer that lives has 2 s on a busy machine
FASTER = {"grpc.keepalive_time_ms": 50, "grpc.keepalive_timeout_ms": PONGS, "grpc.http2.ping_timeout_ms": PONGS}


async def notices(options: list[tuple[str, int]], after: int) -> None:
    """A stream that owes and is owed nothing continues by itself behind a silent peer, and so does its next tick.

    after: pings that the peer answers before it is silent."""
    server = FakeServer()
    await server.start()
    async with Proxy(server.port) as proxy:
        address = f"127.0.0.1:{proxy.port}"
        # Nothing but keepalive may cut the call: the watchdog would wait for a quarter of an hour.
        async with freshet.connect(address, options=options) as client, client.stream("m", "s", answer_s=900) as stream:
            await stream.step(1.0)
            before = proxy.sent
            await asyncio.wait_for(proxy.until(lambda: proxy.sent >= before + after), DEADLINE_S)
            assert stream.reconnects == 0

            proxy.silence()

            await asyncio.wait_for(proxy.until(lambda: proxy.connections == 2), DEADLINE_S)
            assert (await stream.step(2.0)).seq == 2
            assert stream.reconnects == 1
    await server.stop()


async def test_a_silent_peer_is_noticed_although_there_is_nothing_to_say():
    """With the client's own times, but faster. gRPC adds least pauses between pings: those that it lets pass here, it
    lets pass at full length."""
    await notices([(name, value // FASTER[name]) for name, value in channel_options(1) if name in FASTER], PINGS)


@pytest.mark.long
async def test_a_silent_peer_is_noticed_within_a_minute_as_the_client_is_made():
    """After the first ping: the test above waits for more, each of which would take 20 s here."""
    await notices([], 1)


def test_the_client_waits_no_longer_for_a_pong_than_it_says():
    made = dict(channel_options(1))
    assert made["grpc.http2.ping_timeout_ms"] == made["grpc.keepalive_timeout_ms"] == 10_000


async def test_options_of_the_user_win_over_the_clients_own():
    server = FakeServer()
    await server.start()
    small = [("grpc.max_receive_message_length", 1)]
    async with freshet.connect(f"127.0.0.1:{server.port}", options=small) as client:
        with pytest.raises(freshet.ResourceExhausted, match="larger than max"):
            await client.list_models()
    await server.stop()
