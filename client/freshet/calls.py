"""What every part of the client needs of its connection: the channel, and a call that is answered once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

import grpc

from freshet.errors import from_rpc
from freshet.security import Token, bearer

Response = TypeVar("Response")
Metadata: TypeAlias = "tuple[tuple[str, str], ...]"


class Calls:
    """A channel that is opened later, the deadline of each call that is not a stream, seconds, and who calls."""

    def __init__(self, timeout_s: float, token: Token | None = None) -> None:
        self._timeout_s, self._token = timeout_s, token
        self._channel: grpc.aio.Channel | None = None

    def _metadata(self) -> Metadata:
        """What goes out with every call, streams included: the token, read anew."""
        return () if self._token is None else (("authorization", bearer(self._token)),)

    def _connected(self) -> grpc.aio.Channel:
        if self._channel is None:
            raise RuntimeError("the client is not open: use `async with freshet.connect(…) as client`")
        return self._channel

    async def _unary(self, method: Callable[..., Awaitable[Response]], request: object) -> Response:
        try:
            return await method(request, timeout=self._timeout_s, metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error


def cancelled_from_outside() -> bool:
    """Whether this task is being cancelled; gRPC raises the same exception where only the call was."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
