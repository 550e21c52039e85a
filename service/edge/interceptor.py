"""grpc_server_* metrics with the names of go-grpc-prometheus. Handling time of a bidi call is its lifetime."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram

log = structlog.get_logger("calls")

LABELS = ("grpc_type", "grpc_service", "grpc_method")


class GrpcMetrics(grpc.aio.ServerInterceptor):
    """Counts calls started and handled, by method and code; messages are measured where they are handled."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._started = Counter("grpc_server_started", "Calls started.", LABELS, registry=registry)
        self._handled = Counter("grpc_server_handled", "Calls ended.", (*LABELS, "grpc_code"), registry=registry)
        self._seconds = Histogram("grpc_server_handling_seconds", "Life of a call.", LABELS, registry=registry)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method's handler."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        _, service, method = handler_call_details.method.split("/")
        kind = ("bidi_stream" if handler.response_streaming else "client_stream") if handler.request_streaming else (
            "server_stream" if handler.response_streaming else "unary"
        )  # fmt: skip
        labels = (kind, service, method)
        name = behaviour(handler)
        inner = getattr(handler, name)
        wrapped = self._streaming(inner, labels) if inspect.isasyncgenfunction(inner) else self._awaited(inner, labels)
        return handler._replace(**{name: wrapped})  # type: ignore[no-any-return]

    def _awaited(self, inner: Any, labels: tuple[str, ...]) -> Any:
        async def call(request: Any, context: Any) -> Any:
            with self._observed(labels, context):
                return await inner(request, context)

        return call

    def _streaming(self, inner: Any, labels: tuple[str, ...]) -> Any:
        async def call(request: Any, context: Any) -> Any:
            with self._observed(labels, context):
                async for response in inner(request, context):
                    yield response

        return call

    @contextlib.contextmanager
    def _observed(self, labels: tuple[str, ...], context: Any) -> Iterator[None]:
        self._started.labels(*labels).inc()
        started, code = time.perf_counter(), ""
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):  # the client has left, or its deadline or our drain is over
            code = "CANCELLED"
            raise
        except grpc.aio.AbortError:  # the context knows the code
            raise
        except Exception:  # a bug, of which gRPC itself says nothing but this, and that to the client alone
            code = "UNKNOWN"
            log.exception("a call has failed", method="/".join(labels[1:]))
            raise
        finally:
            self._handled.labels(*labels, code or _name(context.code())).inc()
            self._seconds.labels(*labels).observe(time.perf_counter() - started)


def behaviour(handler: Any) -> str:
    """The handler's field that holds the method."""
    sides = (("unary", "stream")[bool(side)] for side in (handler.request_streaming, handler.response_streaming))
    return "_".join(sides)


def _name(code: Any) -> str:
    """The name of a context's code, which is a StatusCode or its number."""
    return next((c.name for c in grpc.StatusCode if code in (c, c.value[0])), "OK")
