"""The only place where our errors become gRPC statuses, with google.rpc details: field, value and remedy."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from service.common.errors import (
    AlreadyExists,
    Exhausted,
    Forbidden,
    Invalid,
    Moved,
    NotFound,
    ServiceError,
    Unauthenticated,
    Unavailable,
    Unsupported,
    store_unreachable,
)
from service.journal.writer import JournalFailed
from service.storage.disk import NoSpace, Unreachable
from service.storage.versions import VersionCorrupt, VersionMissing

log = structlog.get_logger("calls")

# Raised by a write or read on a call that has ended.
CLIENT_GONE = (grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError)
DOMAIN = "freshet"  # of the reasons in google.rpc.ErrorInfo
STATUS: dict[type[ServiceError], grpc.StatusCode] = {
    Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    Moved: grpc.StatusCode.UNAVAILABLE,
    Unsupported: grpc.StatusCode.UNIMPLEMENTED,
}


@contextlib.contextmanager
def named() -> Iterator[None]:
    """Turn what disks, stores and messages raise inside the block into our errors. Others propagate."""
    try:
        yield
    except DecodeError:
        raise Invalid("message", "bytes that are no message", "send messages of freshet.v1") from None
    except VersionMissing as error:
        raise NotFound("version", "gone", "it is no longer kept: list the versions") from error
    except Unreachable as error:
        raise store_unreachable() from error
    except NoSpace as error:
        raise Exhausted("disk", "full", "try again once there is room", retry_s=1.0) from error
    except JournalFailed as error:
        raise Unavailable("journal", "not written", "the server must be restarted") from error


@contextlib.asynccontextmanager
async def statuses(context: Any) -> AsyncIterator[None]:
    """Turn our errors inside the block into the call's status. Other exceptions are bugs and propagate."""
    try:
        with named():
            yield
    except ServiceError as error:
        await _abort(context, error)
    except VersionCorrupt as error:  # its text names our files, which the caller must not see
        log.error("a version is damaged: its caller gets DATA_LOSS", why=str(error))
        await _end(context, grpc.StatusCode.DATA_LOSS, "the version's files are damaged: roll back to another")


def reason_of(error: ServiceError) -> str:
    """Return the kind of an error in snake case."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()


async def _abort(context: Any, error: ServiceError) -> NoReturn:
    violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.remedy)
    facts = {"value": error.value, **({"address": error.address} if isinstance(error, Moved) else {})}
    details: list[Message] = [
        error_details_pb2.BadRequest(field_violations=[violation]),
        error_details_pb2.ErrorInfo(reason=reason_of(error).upper(), domain=DOMAIN, metadata=facts),
    ]
    if error.retry_s is not None:
        delay = duration_pb2.Duration(nanos=int(error.retry_s % 1 * 1e9), seconds=int(error.retry_s))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        box = any_pb2.Any()
        box.Pack(detail)
        packed.append(box)
    status = status_pb2.Status(code=STATUS[type(error)].value[0], message=str(error), details=packed)
    whole = rpc_status.to_status(status)
    await _end(context, whole.code, whole.details, whole.trailing_metadata)


async def _end(context: Any, *status: Any) -> NoReturn:
    """Abort the call. Raises CancelledError if its client has left."""
    try:
        await context.abort(*status)
    except CLIENT_GONE:
        if not context.done():
            raise
        raise asyncio.CancelledError("the client has left") from None
    raise AssertionError("abort raises")
