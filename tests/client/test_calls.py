"""Calls that the server ends while the client writes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from freshet import calls
from freshet.calls import Opener
from freshet.nodes import Nodes

ROUNDS = 150  # without `keep_status`, three in ten end as INTERNAL


class Ends(grpc.GenericRpcHandler):
    """Any method: a welcome, then ABORTED once the event is set."""

    def __init__(self) -> None:
        self.now = asyncio.Event()

    def service(self, details: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._call)

    async def _call(self, requests: Any, context: Any) -> None:
        await context.write(b"welcome")
        await self.now.wait()
        await context.abort(grpc.StatusCode.ABORTED, "taken over")


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Ends, Opener[Any]]]:
    handler, server = Ends(), grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    nodes = Nodes([f"127.0.0.1:{port}"], grpc.aio.insecure_channel)
    await nodes.open()
    yield handler, Opener(nodes, "m", lambda to: to.stream_stream("/any/method"), lambda: ())
    await nodes.aclose()
    await server.stop(None)


async def how_calls_end(handler: Ends, opener: Opener[Any]) -> Counter[grpc.StatusCode]:
    """Statuses of calls that write while they are ended, earlier or later."""
    ended: Counter[grpc.StatusCode] = Counter()
    for number in range(ROUNDS):
        handler.now = asyncio.Event()
        call = await opener()
        await call.write(b"hello")
        messages = aiter(call)
        await anext(messages)
        handler.now.set()
        for _ in range(number % 6):
            await asyncio.sleep(0)
        try:
            for _ in range(5):
                await call.write(bytes(1 + 1000 * (number % 7)))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        ended[await call.code()] += 1
    return ended


async def test_a_call_that_is_ended_while_it_writes_has_the_servers_status(ends):
    assert await how_calls_end(*ends) == {grpc.StatusCode.ABORTED: ROUNDS}


async def test_a_status_that_a_failed_write_sets_would_be_noticed(ends, monkeypatch):
    monkeypatch.setattr(calls, "keep_status", lambda call: None)

    ended: Counter[grpc.StatusCode] = Counter()
    while not ended[grpc.StatusCode.INTERNAL]:  # the test's timeout bounds it
        ended += await how_calls_end(*ends)
