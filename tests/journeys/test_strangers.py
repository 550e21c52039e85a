"""Peers without a token that speak HTTP/2 by hand: how much memory they can make a server hold."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest

import freshet
from freshet.v1 import models_pb2
from service.common.limits import MAX_HEADER_BYTES
from service.programs.backtest.child import ServerChild
from tests.journeys.guessing import ACCESS, OWNER
from tests.journeys.raw import DEADLINE_S, channel_to, within
from tests.torture.abuse import CONTINUATION, END_HEADERS, HEADERS, HELLO, RST_STREAM, again, frame, request
from tests.torture.soak import MiB, Use

CALLS = 20_000
MAY_HOLD = 144 * MiB  # a server that keeps all these calls holds 170 to 200 MiB more, this one 60 to 100


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerChild]:
    """A server that requires tokens."""
    (tmp_path / "access.toml").write_text(ACCESS)
    async with ServerChild(tmp_path / "data", tmp_path / "log", settings={"access": tmp_path / "access.toml"}) as child:
        yield child


class Peer:
    """One HTTP/2 connection, by hand. frames: those read so far, as (kind, stream, payload)."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.frames: list[tuple[int, int, bytes]] = []

    async def __aenter__(self) -> Peer:
        host, _, port = self._target.rpartition(":")
        self._reader, self._writer = await asyncio.open_connection(host, int(port))
        return self

    async def __aexit__(self, *error: object) -> None:
        self._writer.transport.abort()

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await within(self._writer.drain())

    async def ended(self) -> None:
        """Read until the server ends the connection."""
        with contextlib.suppress(OSError):
            while await self._reader.read(1 << 16):
                pass

    async def until(self, kind: int, stream: int) -> bytes:
        """The payload of the first frame of that kind on that stream."""
        while True:
            head = await within(self._reader.readexactly(9))
            at, payload = (
                int.from_bytes(head[5:], "big"),
                await self._reader.readexactly(int.from_bytes(head[:3], "big")),
            )
            self.frames.append((head[3], at, payload))
            if (head[3], at) == (kind, stream):
                return payload


def calls(path: bytes) -> Iterator[bytes]:
    """Return the frames of calls without a message: about 220 bytes and 200 headers each."""
    first, brief = request(path, (b"x", b"y"))
    yield HELLO + frame(HEADERS, END_HEADERS, 1, first)
    for stream in range(3, 2 * CALLS, 2):
        yield frame(HEADERS, END_HEADERS, stream, brief + again(0) * 200)


async def send_all(peer: Peer, path: bytes) -> None:
    """Send the frames, reading the answers, until the server ends the connection, which it may."""
    reading = asyncio.create_task(peer.ended())
    with contextlib.suppress(OSError, TimeoutError):
        for data in calls(path):
            await peer.send(data)
    reading.cancel()


@pytest.mark.parametrize("method", ["Models/Create", "Nothing/Here"])
async def test_calls_of_indexed_headers_without_a_token_take_little_memory(server, method):
    before = most = Use.of(server.pid).rss
    async with (
        freshet.connect(server.grpc, token=OWNER.token) as client,
        Peer(server.grpc) as one,
        Peer(server.grpc) as two,
    ):
        sending = asyncio.gather(*(send_all(peer, f"/freshet.v1.{method}".encode()) for peer in (one, two)))
        while not sending.done():
            await client.list_models()  # a good client is still answered
            most = max(most, Use.of(server.pid).rss)
        await client.list_models()
        most = max(most, Use.of(server.pid).rss)

    print(f"{method} {(most - before) / MiB:.0f} MiB")
    assert most - before < MAY_HOLD


async def test_a_call_without_a_token_is_refused_before_its_request_arrives(server):
    first, _ = request(b"/freshet.v1.Models/Create")
    async with Peer(server.grpc) as peer:
        await peer.send(HELLO + frame(HEADERS, END_HEADERS, 1, first))

        await peer.until(RST_STREAM, 1)  # the server no longer waits for a request

        assert [kind for kind, stream, _ in peer.frames if stream == 1] == [HEADERS, RST_STREAM]


async def test_a_block_of_headers_that_never_ends_is_cut_with_its_connection(server, tmp_path):
    first, _ = request(b"/freshet.v1.Models/Create", (b"x", b"y"))
    before, endless = Use.of(server.pid).rss, frame(CONTINUATION, 0, 1, again(0) * 16_000)
    async with freshet.connect(server.grpc, token=OWNER.token) as client, Peer(server.grpc) as peer:
        await client.list_models()
        await peer.send(HELLO + frame(HEADERS, 0, 1, first))

        async def go_on() -> None:
            with contextlib.suppress(OSError):
                while True:
                    await peer.send(endless)

        sending = asyncio.create_task(go_on())
        await within(peer.ended())
        sending.cancel()

        await client.list_models()  # on a connection that stays open
    assert Use.of(server.pid).rss - before < MAY_HOLD
    assert (tmp_path / "log").read_text().count("sent much before any call was admitted") == 1


async def test_headers_beyond_the_bound_are_refused(server):
    async with channel_to(server.grpc) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/freshet.v1.Models/List")
        metadata = [("authorization", f"Bearer {OWNER.token}"), ("x", "y" * (MAX_HEADER_BYTES // 2))]
        answer = await call(b"", metadata=metadata, timeout=DEADLINE_S)
        assert models_pb2.ListModelsResponse.FromString(answer).models == []

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"", metadata=[*metadata, ("x", "y" * MAX_HEADER_BYTES)], timeout=DEADLINE_S)

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
