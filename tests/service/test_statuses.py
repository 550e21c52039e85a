"""What a caller is told of what went wrong inside: the status and the remedy, nothing of the server's files."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from service.edge.statuses import statuses
from service.storage.journal import JournalFailed
from service.storage.space import NoSpace
from service.storage.versions import VersionCorrupt, VersionMissing
from tests.journeys.raw import DEADLINE_S

CODES = {
    VersionMissing: grpc.StatusCode.NOT_FOUND,
    VersionCorrupt: grpc.StatusCode.DATA_LOSS,
    NoSpace: grpc.StatusCode.RESOURCE_EXHAUSTED,
    JournalFailed: grpc.StatusCode.UNAVAILABLE,
}


@pytest.mark.parametrize("kind", CODES)
async def test_errors_of_the_stores_are_told_without_paths_and_numbers(kind):
    async def fail(request: bytes, context: Any) -> bytes:
        async with statuses(context):
            raise kind("/var/lib/freshet/versions.db: model 4711 version 3: does not match")
        return b""

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(fail)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.Service", {"Do": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/a.Service/Do")(b"", timeout=DEADLINE_S)
        code, said = await call.code(), f"{await call.details()} {await call.trailing_metadata()}"
    await server.stop(None)

    assert code is CODES[kind]
    assert len(said) > 20
    assert not [word for word in ("/var", "versions.db", "4711") if word in said]
