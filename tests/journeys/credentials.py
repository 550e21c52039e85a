"""Access files for journeys, and calls of any method with any credential, without the SDK."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple

import grpc
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.access.grants import token_digest
from tests.journeys.raw import DEADLINE_S


class Entry(NamedTuple):
    """One token of an access file. `more`: further lines."""

    token: str
    tenant: str
    role: str
    more: str = ""


def written(*entries: Entry, quotas: str = "") -> str:
    """An access file's text."""
    lines = (
        f'[[token]]\nsha256 = "{token_digest(e.token)}"\ntenant = "{e.tenant}"\nrole = "{e.role}"\n{e.more}\n'
        for e in entries
    )
    return "".join(lines) + quotas


def replace(path: Path, text: str) -> None:
    """Put another file in its place, at once, as editors and orchestrators do."""
    fresh = path.with_suffix(".fresh")
    fresh.write_text(text)
    fresh.replace(path)


def bearer(token: str | None) -> tuple[tuple[str, str], ...]:
    """The metadata of a call with this token; of one without."""
    return () if token is None else (("authorization", f"Bearer {token}"),)


async def methods(channel: grpc.aio.Channel, token: str | None) -> list[str]:
    """Every method that reflection tells of, "/package.Service/Method"."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
    answers = [a async for a in stub.ServerReflectionInfo(iter(requests), metadata=bearer(token), timeout=DEADLINE_S)]
    names = [service.name for service in answers[0].list_services_response.service]
    asked = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in names]
    found = []
    call = stub.ServerReflectionInfo(iter(asked), metadata=bearer(token), timeout=DEADLINE_S)
    for name in names:
        answer = await call.read()
        for blob in answer.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(blob)
            for service in file.service:
                if f"{file.package}.{service.name}" == name:
                    found += [f"/{name}/{method.name}" for method in service.method]
    return sorted(found)


async def status(
    channel: grpc.aio.Channel, method: str, token: str | None, request: bytes = b"", deadline_s: float = DEADLINE_S
) -> tuple[grpc.StatusCode, str]:
    """How a call with one message ends: OK as soon as something is answered."""
    while (ended := await once(channel, method, token, request, deadline_s))[0] is grpc.StatusCode.INTERNAL:
        assert ended[1] == "Internal error from Core"  # a write that raced the end, which hides it (grpc/grpc#36066)
    return ended


async def once(
    channel: grpc.aio.Channel, method: str, token: str | None, request: bytes, deadline_s: float
) -> tuple[grpc.StatusCode, str]:
    """As `status`, of one try."""
    call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(method)(
        metadata=bearer(token), timeout=deadline_s
    )
    try:
        await call.write(request)
        await call.done_writing()
        async for _ in call:
            return grpc.StatusCode.OK, ""
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    except asyncio.InvalidStateError:  # ended before it was written to
        pass
    finally:
        call.cancel()
    return await call.code(), await call.details()
