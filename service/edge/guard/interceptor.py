"""Metrics of calls, grpc_server_*, with the names of go-grpc-prometheus; and how interceptors wrap a handler.

The handling time of a bidirectional call is its lifetime.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Any

import grpc
import structlog
from google.protobuf import descriptor_pool
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

log = structlog.get_logger("calls")

Guard = Callable[[Any, Any], contextlib.AbstractAsyncContextManager[None]]  # (request, context) → block
KINDS = {
    (False, False): "unary",
    (False, True): "server_stream",
    (True, False): "client_stream",
    (True, True): "bidi_stream",
}
LABELS = ("grpc_type", "grpc_service", "grpc_method")


class Messages:
    """Message counts of one method, without locks: only the event loop counts, and it counts every message."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received = self.sent = 0


MESSAGES: ContextVar[Messages | None] = ContextVar("messages", default=None)  # counts of the current call's method


class MessageCounts(Collector):
    """Message counts of all methods."""

    def __init__(self) -> None:
        self._methods: dict[tuple[str, ...], Messages] = {}

    def of(self, labels: tuple[str, ...]) -> Messages:
        """Return the counts of one method."""
        return self._methods.setdefault(labels, Messages())

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of a scrape."""
        received = CounterMetricFamily("grpc_server_msg_received", "Messages received.", labels=LABELS)
        sent = CounterMetricFamily("grpc_server_msg_sent", "Messages sent.", labels=LABELS)
        for labels, messages in list(self._methods.items()):
            received.add_metric(labels, messages.received)
            sent.add_metric(labels, messages.sent)
        return received, sent


class GrpcMetrics(grpc.aio.ServerInterceptor):
    """Counts calls started and ended, by method and code, and their messages.

    Handlers that read and write by themselves count their messages in MESSAGES.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._started = Counter("grpc_server_started", "Calls started.", LABELS, registry=registry)
        self._handled = Counter(
            "grpc_server_handled", "Calls ended, by status code.", (*LABELS, "grpc_code"), registry=registry
        )
        self._seconds = Histogram(
            "grpc_server_handling_seconds", "Time from the start of a call to its end.", LABELS, registry=registry
        )
        self._messages = MessageCounts()
        registry.register(self._messages)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method's handler."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        _, service, method = handler_call_details.method.split("/")
        labels = (kind(handler_call_details.method, handler), service, method)
        name = behaviour(handler)
        inner = getattr(handler, name)
        wrapped = self._streaming(inner, labels) if inspect.isasyncgenfunction(inner) else self._awaited(inner, labels)
        return handler._replace(**{name: wrapped})  # type: ignore[no-any-return]

    def _awaited(self, inner: Any, labels: tuple[str, ...]) -> Any:
        async def call(request: Any, context: Any) -> Any:
            async with self._observed(labels, context) as messages:
                messages.received += labels[0] in ("unary", "server_stream")
                response = await inner(request, context)
                messages.sent += labels[0] in ("unary", "client_stream")
                return response

        return call

    def _streaming(self, inner: Any, labels: tuple[str, ...]) -> Any:
        async def call(request: Any, context: Any) -> Any:
            async with self._observed(labels, context) as messages:
                if labels[0] == "bidi_stream":
                    request = counted(request, messages)
                else:
                    messages.received += 1
                async for response in inner(request, context):
                    messages.sent += 1
                    yield response

        return call

    @contextlib.asynccontextmanager
    async def _observed(self, labels: tuple[str, ...], context: Any) -> AsyncIterator[Messages]:
        self._started.labels(*labels).inc()
        messages = self._messages.of(labels)
        MESSAGES.set(messages)
        started, code = time.perf_counter(), ""
        try:
            yield messages
        except (
            asyncio.CancelledError,
            GeneratorExit,
        ):  # by its client, its deadline or our drain
            code = "CANCELLED"
            raise
        except grpc.aio.AbortError:  # the context knows the code
            raise
        except Exception:  # a bug
            code = "UNKNOWN"  # the caller gets no more: the error's text may expose others' data, so it is only logged
            log.exception("a call has failed", method="/".join(labels[1:]))
            if context.done():
                raise
            await context.abort(grpc.StatusCode.UNKNOWN, "a fault of the server: see its log")
        finally:
            self._handled.labels(*labels, code or status_name(context.code())).inc()
            self._seconds.labels(*labels).observe(time.perf_counter() - started)


async def counted(requests: AsyncIterator[Any], messages: Messages) -> AsyncIterator[Any]:
    """Yield the requests, counting each as it is read."""
    async for request in requests:
        messages.received += 1
        yield request


def guarded(handler: Any, guard: Guard) -> Any:
    """Return the handler with its method run inside `guard(request, context)`."""
    name = behaviour(handler)
    inner = getattr(handler, name)

    async def awaited(request: Any, context: Any) -> Any:
        async with guard(request, context):
            return await inner(request, context)

    async def streaming(request: Any, context: Any) -> Any:
        async with guard(request, context):
            async for response in inner(request, context):
                yield response

    return handler._replace(**{name: streaming if inspect.isasyncgenfunction(inner) else awaited})


def kind(method: str, handler: Any) -> str:
    """Return unary, client_stream, server_stream or bidi_stream.

    The proto decides, because a handler may read its single request by itself and then looks like a stream.
    """
    several = handler.request_streaming, handler.response_streaming
    with contextlib.suppress(KeyError):  # a test's method, without a proto
        described = descriptor_pool.Default().FindMethodByName(method.strip("/").replace("/", "."))
        several = described.client_streaming, described.server_streaming
    return KINDS[several]


def behaviour(handler: Any) -> str:
    """Return the name of the handler's field that holds the method."""
    sides = (("unary", "stream")[bool(side)] for side in (handler.request_streaming, handler.response_streaming))
    return "_".join(sides)


def status_name(code: Any) -> str:
    """Return the name of a context's code, a StatusCode or its number."""
    return next((c.name for c in grpc.StatusCode if code in (c, c.value[0])), "OK")
