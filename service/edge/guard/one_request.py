"""Read the request of a unary call only after its caller is admitted.

By default gRPC reads it first, for any caller, and keeps a call without a message, with all its headers, as long as the
connection stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from service.common.errors import Exhausted, Invalid
from service.common.limits import MAX_CHECKS, REQUEST_S
from service.edge.guard.interceptor import behaviour
from service.edge.guard.security import PUBLIC
from service.edge.guard.statuses import statuses

_FORMS = {  # (several requests, several answers) → constructor of such a handler
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class OneRequest(grpc.aio.ServerInterceptor):
    """Makes each method with a single request read it by itself, within REQUEST_S.

    Place it inside the interceptors that admit callers: they then refuse a call without reading a message.
    """

    def __init__(self, within_s: float = REQUEST_S, checks: int = MAX_CHECKS) -> None:
        """within_s: seconds from a call's start to its request.

        checks: health checks, which need no token, that may wait for their request; with more, the oldest is ended.
        """
        self._within_s, self._checks = within_s, checks
        self._waiting: dict[asyncio.Task[Any], None] = {}  # the oldest first

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method's handler if it has a single request."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler  # type: ignore[no-any-return]
        inner, read = getattr(handler, behaviour(handler)), handler.request_deserializer or bytes
        place = self._place if handler_call_details.method == PUBLIC else contextlib.nullcontext

        async def one(context: Any) -> Any:
            async with statuses(context):
                with place():
                    return read(await self._message(context))

        async def awaited(requests: Any, context: Any) -> Any:
            return await inner(await one(context), context)

        async def streaming(requests: Any, context: Any) -> AsyncIterator[Any]:
            request = await one(context)
            async for response in inner(request, context):
                yield response

        form = _FORMS[True, handler.response_streaming]
        call = streaming if inspect.isasyncgenfunction(inner) else awaited
        return form(call, response_serializer=handler.response_serializer)

    async def _message(self, context: Any) -> bytes:
        """Return the bytes of the call's message. Raises Invalid if none arrives."""
        try:
            async with asyncio.timeout(self._within_s):
                message = await context.read()
        except TimeoutError:
            raise Invalid("message", "(none)", f"send it within {self._within_s:g} s of the call's start") from None
        if message is grpc.aio.EOF:
            raise Invalid("message", "(none)", "send one message with the call")
        return message  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def _place(self) -> Any:
        """Hold a place among the health checks that wait for their request; the oldest one is ended for it."""
        task = asyncio.current_task()
        assert task is not None
        if len(self._waiting) >= self._checks:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.cancel()
        self._waiting[task] = None
        try:
            yield
        except asyncio.CancelledError:
            if task in self._waiting or task.uncancel():  # cancelled by its client, or by our drain
                raise
            raise Exhausted("call", "one more", "send the request with the call, or try again", retry_s=1.0) from None
        finally:
            self._waiting.pop(task, None)
