"""What every part of the client needs of its connection: the channel, and a call that is answered once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from freshet.errors import from_rpc

Response = TypeVar("Response")


class Calls:
    """A channel that is opened later, and the deadline of each call that is not a stream, seconds."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._channel: grpc.aio.Channel | None = None

    def _connected(self) -> grpc.aio.Channel:
        if self._channel is None:
            raise RuntimeError("the client is not open: use `async with freshet.connect(…) as client`")
        return self._channel

    async def _unary(self, method: Callable[..., Awaitable[Response]], request: object) -> Response:
        try:
            return await method(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error


def cancelled_from_outside() -> bool:
    """Whether this task is being cancelled; gRPC raises the same exception where only the call was."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
