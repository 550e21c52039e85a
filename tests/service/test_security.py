"""Authorization of methods: closed unless their proto names a role."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
from prometheus_client import CollectorRegistry

from freshet.v1 import access_pb2, models_pb2, streams_pb2, training_pb2
from service.access.grants import OPEN, Access, Role, parse, token_digest
from service.edge.guard.security import Security, caller, required
from service.observe.metrics import Metrics
from tests.journeys.credentials import status

FILE = f'[[token]]\nsha256 = "{token_digest("root")}"\ntenant = "a"\nrole = "admin"\n'


def test_every_method_of_ours_names_the_role_that_may_call_it():
    services = [s for pb in (streams_pb2, models_pb2, training_pb2) for s in pb.DESCRIPTOR.services_by_name.values()]
    methods = [f"/{service.full_name}/{method.name}" for service in services for method in service.methods]

    assert len(methods) > 20
    assert [method for method in methods if required(method) is None] == []


def test_roles_are_numbered_as_on_the_wire():
    assert {role.name: role.value for role in Role if role} == {
        name: number for name, number in access_pb2.Role.items() if number
    }


@pytest.mark.parametrize(
    "method", ["", "/", "/a.B/C", "/freshet.v1.Models/Nothing", "/freshet.v1.Model/name", "x" * 10**5]
)
def test_a_method_without_a_proto_is_closed(method):
    assert required(method) is None


async def served(access: Access, channel_calls: dict[str, str | None]) -> AsyncIterator[tuple[str, grpc.StatusCode]]:
    """Return the outcomes of calls to a service without a proto, by token."""

    async def do(request: bytes, context: object) -> bytes:
        return caller().tenant.encode()

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(do)
    server = grpc.aio.server(interceptors=[Security(lambda: access, Metrics(CollectorRegistry()).access)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("new.Service", {"Do": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for name, token in channel_calls.items():
            yield name, (await status(channel, "/new.Service/Do", token))[0]
    await server.stop(None)


async def test_a_new_service_is_closed_to_every_role_until_its_proto_names_one():
    calls = {"nothing": None, "wrong": "no", "admin": "root"}

    assert {name: code async for name, code in served(parse(FILE), calls)} == {
        "nothing": grpc.StatusCode.UNAUTHENTICATED,
        "wrong": grpc.StatusCode.UNAUTHENTICATED,
        "admin": grpc.StatusCode.PERMISSION_DENIED,
    }
    assert {name: code async for name, code in served(OPEN, calls)} == dict.fromkeys(
        calls, grpc.StatusCode.PERMISSION_DENIED
    )
