"""Internal errors reach the caller as status and remedy, without the server's files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from service.edge.guard.interceptor import GrpcMetrics
from service.edge.guard.statuses import statuses
from service.journal.writer import JournalFailed
from service.storage.disk import NoSpace, Unreachable
from service.storage.versions import VersionCorrupt, VersionMissing
from tests.journeys.raw import DEADLINE_S

CODES = {
    VersionMissing: grpc.StatusCode.NOT_FOUND,
    VersionCorrupt: grpc.StatusCode.DATA_LOSS,
    NoSpace: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unreachable: grpc.StatusCode.UNAVAILABLE,
    JournalFailed: grpc.StatusCode.UNAVAILABLE,
}


async def told(
    method: Callable[[bytes, Any], Awaitable[bytes]], *interceptors: grpc.aio.ServerInterceptor
) -> tuple[grpc.StatusCode, str]:
    """Return the status and all text of a call of this method."""
    server = grpc.aio.server(interceptors=interceptors)
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(method)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.Service", {"Do": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/a.Service/Do")
        call = ask(b"", timeout=DEADLINE_S)
        code, said = await call.code(), f"{await call.details()} {await call.trailing_metadata()}"
    await server.stop(DEADLINE_S)  # waits for the handler to end
    return code, said


@pytest.mark.parametrize("kind", CODES)
async def test_errors_of_the_stores_reach_clients_without_paths_and_numbers(kind):
    async def fail(request: bytes, context: Any) -> bytes:
        async with statuses(context):
            raise kind("/var/lib/freshet/versions.db: model 4711 version 3: does not match")
        return b""

    code, said = await told(fail)

    assert code is CODES[kind]
    assert len(said) > 20
    assert not [word for word in ("/var", "versions.db", "4711") if word in said]


async def test_a_bug_of_the_server_is_in_its_log_and_not_in_the_answer():
    async def fail(request: bytes, context: Any) -> bytes:
        raise KeyError("another tenant's model")

    registry = CollectorRegistry()
    with capture_logs() as logged:
        code, said = await told(fail, GrpcMetrics(registry))

    assert code is grpc.StatusCode.UNKNOWN
    assert "a fault of the server" in said
    assert "tenant" not in said
    assert [(line["event"], line["method"]) for line in logged] == [("a call has failed", "a.Service/Do")]
    labels = {"grpc_type": "unary", "grpc_service": "a.Service", "grpc_method": "Do", "grpc_code": "UNKNOWN"}
    assert registry.get_sample_value("grpc_server_handled_total", labels) == 1
