"""A bound on the calls that are open at once, of all methods together but health checks, which are short."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from service.edge.interceptor import behaviour
from service.edge.statuses import statuses
from service.errors import Exhausted

RETRY_S = 1.0


class CallLimit(grpc.aio.ServerInterceptor):
    """Refuses the call that is one too many, with RESOURCE_EXHAUSTED and a retry delay."""

    def __init__(self, most: int) -> None:
        self._most, self._open = most, 0

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method's handler."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method == "/grpc.health.v1.Health/Check":
            return handler  # type: ignore[no-any-return]
        name = behaviour(handler)
        inner = getattr(handler, name)
        wrapped = self._streaming(inner) if inspect.isasyncgenfunction(inner) else self._awaited(inner)
        return handler._replace(**{name: wrapped})  # type: ignore[no-any-return]

    def _awaited(self, inner: Any) -> Any:
        async def call(request: Any, context: Any) -> Any:
            await self._enter(context)
            try:
                return await inner(request, context)
            finally:
                self._open -= 1

        return call

    def _streaming(self, inner: Any) -> Any:
        async def call(request: Any, context: Any) -> Any:
            await self._enter(context)
            try:
                async for response in inner(request, context):
                    yield response
            finally:
                self._open -= 1

        return call

    async def _enter(self, context: Any) -> None:
        async with statuses(context):
            if self._open >= self._most:
                remedy = f"the server has {self._most} calls open, its limit: end one, or try again"
                raise Exhausted("call", "one more", remedy, retry_s=RETRY_S)
        self._open += 1
