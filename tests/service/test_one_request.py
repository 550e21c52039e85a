"""The request of a unary call must arrive, and in time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc

from service.edge.guard.health import Health
from service.edge.guard.one_request import OneRequest
from tests.journeys.raw import DEADLINE_S, within

DO, STREAM, CHECK = "/a.Service/Do", "/a.Service/Stream", "/grpc.health.v1.Health/Check"


@contextlib.asynccontextmanager
async def served(interceptor: OneRequest) -> AsyncIterator[grpc.aio.Channel]:
    """Return a channel to a service with two echoing methods, and to health."""

    async def do(request: bytes, context: Any) -> bytes:
        return request

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for byte in request:
            yield bytes((byte,))

    server = grpc.aio.server(interceptors=[interceptor])
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Do": grpc.unary_unary_rpc_method_handler(do), "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }  # fmt: skip
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.Service", handlers),))
    health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


def begun(channel: grpc.aio.Channel, method: str) -> Any:
    """Begin a call of the method without sending its request."""
    return channel.stream_stream(method)(timeout=DEADLINE_S)


async def test_requests_are_answered_as_without_the_interceptor():
    async with served(OneRequest()) as channel:
        do: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(DO)
        stream: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(STREAM)
        assert await do(b"abc", timeout=DEADLINE_S) == b"abc"
        assert [part async for part in stream(b"abc", timeout=DEADLINE_S)] == [b"a", b"b", b"c"]


@pytest.mark.parametrize("method", [DO, STREAM, CHECK])
async def test_a_call_whose_request_does_not_come_is_ended(method):
    async with served(OneRequest(within_s=0.01)) as channel:
        call = begun(channel, method)

        assert await within(call.code()) is grpc.StatusCode.INVALID_ARGUMENT
        assert "send it within" in await call.details()


@pytest.mark.parametrize("method", [DO, STREAM, CHECK])
async def test_a_call_that_ends_without_a_request_is_refused(method):
    async with served(OneRequest()) as channel:
        call = begun(channel, method)
        await call.done_writing()

        assert await within(call.code()) is grpc.StatusCode.INVALID_ARGUMENT
        assert "send one message" in await call.details()


async def until(interceptor: OneRequest, waiting: int) -> None:
    """Wait until `waiting` health checks wait for their request."""
    async with asyncio.timeout(DEADLINE_S):
        while len(interceptor._waiting) != waiting:
            await asyncio.sleep(0)


async def test_with_too_many_waiting_checks_the_oldest_is_ended():
    interceptor = OneRequest(checks=2)
    async with served(interceptor) as channel:
        calls = [begun(channel, CHECK)]
        await until(interceptor, 1)
        calls += [begun(channel, CHECK)]
        await until(interceptor, 2)
        calls += [begun(channel, CHECK)]

        assert await within(calls[0].code()) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert [call.done() for call in calls] == [True, False, False]
        assert len(interceptor._waiting) == 2


async def test_a_check_cancelled_by_its_client_frees_its_place():
    interceptor = OneRequest(checks=1)
    async with served(interceptor) as channel:
        call = begun(channel, CHECK)
        await until(interceptor, 1)
        call.cancel()
        await until(interceptor, 0)
