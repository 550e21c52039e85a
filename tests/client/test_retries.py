"""What the client repeats by itself while there is no server, what it never does, and how long it takes at most."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

import freshet
from tests.client.test_security import CALLS

BY_THEMSELVES = {"Streams/Open", "Streams/Mux", "Training/Learn", "Models/Watch"}  # they reconnect
NEVER = {"Models/Delete", "Streams/Put", "Streams/Delete", "Training/Replay"}
ASKED = sorted(CALLS.keys() - BY_THEMSELVES)


class Recovering(grpc.GenericRpcHandler):
    """Takes any call: the first ends with `code`, or with none hangs, those after it succeed with an empty message."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.port = 0
        self.code: grpc.StatusCode | None = grpc.StatusCode.UNAVAILABLE

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        self.asked.append(details.method.removeprefix("/freshet.v1."))
        return grpc.unary_unary_rpc_method_handler(self._answer)

    async def _answer(self, request: bytes, context: Any) -> bytes:
        if self.code is None:
            await asyncio.Event().wait()
        elif len(self.asked) == 1:
            await context.abort(self.code, "the first time")
        return b""


@pytest.fixture
async def door() -> AsyncIterator[Recovering]:
    door, server = Recovering(), grpc.aio.server()
    server.add_generic_rpc_handlers((door,))
    door.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield door
    await server.stop(0)


async def ask(door: Recovering, method: str, **settings: Any) -> None:
    async with freshet.connect(f"127.0.0.1:{door.port}", **settings) as client:
        with contextlib.suppress(StopAsyncIteration):  # of an empty list
            await CALLS[method](client)


@pytest.mark.parametrize("method", ASKED)
async def test_what_may_be_done_twice_is_repeated_and_nothing_else(door, method):
    if method in NEVER:
        with pytest.raises(freshet.Unavailable, match="the first time"):
            await ask(door, method)
        assert door.asked == [method]
    else:
        await ask(door, method)
        assert door.asked == [method] * 2


CODES = sorted(set(grpc.StatusCode) - {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}, key=lambda code: code.name)


@pytest.mark.parametrize("code", CODES, ids=[code.name for code in CODES])
async def test_an_answer_is_never_asked_for_again(door, code):
    door.code = code
    with pytest.raises(freshet.FreshetError, match="the first time"):
        await ask(door, "Models/Get")

    assert door.asked == ["Models/Get"]


@pytest.mark.parametrize("method", ["Models/Get", "Streams/Get", "Training/Quarantine"])
async def test_a_server_that_does_not_answer_is_given_up_at_the_deadline(door, method):
    door.code = None
    with pytest.raises(freshet.Unavailable) as raised:
        await ask(door, method, timeout_s=1.0)  # long enough for a busy machine to connect

    assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert door.asked == [method]
