"""Replies on real connections, to clients that read and to clients that do not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
from starlette.types import Receive, Scope, Send

from service.edge.api.asked import Asked
from service.edge.api.sending import TEXT, Reply, Sending, Stuck
from service.edge.http import SEND_BYTES, HttpServer

WRITE_S = 0.2
PIECE = b"x" * (1 << 16)
MANY = 1 << 10  # pieces; far more than any buffer takes


class Served:
    """Answers each request with `reply`, and notes how that ended. sent: pieces that the connection has taken."""

    def __init__(self, reply: Callable[[Sending, Served], object]) -> None:
        self._reply = reply
        self.sent, self.ended = 0, asyncio.Event()
        self.stuck = self.was_closed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = Asked.of(scope, receive, send)
        try:
            await self._reply(Sending(asked, WRITE_S), self)  # type: ignore[misc]
        except Stuck:
            self.stuck = True
        self.was_closed = asked.transport.is_closing()
        self.ended.set()


@contextlib.asynccontextmanager
async def serving(app: Served) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve, and open a connection on which one request was sent."""
    server = HttpServer(app, "127.0.0.1", 0)  # type: ignore[arg-type]
    running = asyncio.create_task(server.run())
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
    writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        server.stop()
        await running


async def endless(sending: Sending, served: Served) -> None:
    await sending.start(200, TEXT, {})
    for _ in range(MANY):
        await sending.piece(PIECE)
        served.sent += 1
    await sending.end()


async def whole(sending: Sending, served: Served) -> None:
    await sending.reply(Reply(200, PIECE * 32, TEXT))


async def test_a_client_that_reads_gets_all():
    served = Served(endless)
    async with serving(served) as (reader, _), asyncio.timeout(60):
        while not served.ended.is_set():
            await reader.read(1 << 20)
    assert (served.stuck, served.sent) == (False, MANY)


@pytest.mark.parametrize("reply", [endless, whole])
async def test_a_client_that_does_not_read_is_cut_with_its_connection(reply):
    served = Served(reply)
    async with serving(served) as (_, writer), asyncio.timeout(60):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await served.ended.wait()

    assert (served.stuck, served.was_closed) == (True, True)


async def test_what_waits_for_a_client_that_does_not_read_is_bounded():
    served = Served(endless)
    async with serving(served) as (_, writer), asyncio.timeout(60):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await served.ended.wait()

    # Of both kernels' buffers, ours is bounded, and the client's, which reads nothing, does not grow.
    assert served.sent * len(PIECE) < 2 * SEND_BYTES + (8 << 20)
