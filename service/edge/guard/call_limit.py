"""Limit of calls open at once, in total and per tenant. Health checks are short and do not count."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from service.access.tenants import Tenants
from service.common.errors import Exhausted
from service.edge.guard.interceptor import guarded
from service.edge.guard.security import PUBLIC, caller
from service.edge.guard.statuses import statuses

RETRY_S = 1.0


class CallLimit(grpc.aio.ServerInterceptor):
    """Refuses a call beyond the limit, with RESOURCE_EXHAUSTED and a retry delay."""

    def __init__(self, most: int, tenants: Tenants) -> None:
        self._most, self._open, self._tenants = most, 0, tenants

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method's handler."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method == PUBLIC:
            return handler  # type: ignore[no-any-return]
        return guarded(handler, self._counted)  # type: ignore[no-any-return]

    @contextlib.asynccontextmanager
    async def _counted(self, request: Any, context: Any) -> AsyncIterator[None]:
        tenant = self._tenants.of(caller().tenant)
        async with statuses(context):
            if self._open >= self._most:
                remedy = f"the server has {self._most} calls open, its limit: end one, or try again"
                raise Exhausted("call", "one more", remedy, retry_s=RETRY_S)
            tenant.begin_call()
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            tenant.end_call()
