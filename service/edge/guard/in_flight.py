"""Bytes received and not yet answered, counted against the tenant's quota.

The interceptor counts requests of unary calls. Streams count their own: packed ticks until they are answered, labels
and windows until they are acknowledged.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc

from service.access.tenants import Tenant, Tenants
from service.edge.guard.interceptor import behaviour, guarded
from service.edge.guard.security import PUBLIC, caller
from service.edge.guard.statuses import statuses


@contextlib.contextmanager
def in_flight(tenant: Tenant, size: int) -> Iterator[None]:
    """Count `size` bytes as in flight inside the block. Raises Exhausted beyond the tenant's quota."""
    tenant.hold(size)
    try:
        yield
    finally:
        tenant.release(size)


class InFlight(grpc.aio.ServerInterceptor):
    """Refuses a request beyond its tenant's quota, with RESOURCE_EXHAUSTED and a retry delay."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method's handler if it has a single request."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming or handler_call_details.method == PUBLIC:
            return handler  # type: ignore[no-any-return]
        if inspect.isasyncgenfunction(getattr(handler, behaviour(handler))):  # a watch: it holds no request
            return handler  # type: ignore[no-any-return]
        return guarded(handler, self._held)  # type: ignore[no-any-return]

    @contextlib.asynccontextmanager
    async def _held(self, request: Any, context: Any) -> AsyncIterator[None]:
        async with statuses(context):
            with in_flight(self._tenants.of(caller().tenant), request.ByteSize()):
                yield
