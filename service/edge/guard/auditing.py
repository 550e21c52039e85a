"""Audit lines of calls: which methods are audited, which model or stream they act on, and how each call ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message

from service.access.audit import OK, Audit
from service.edge.guard.interceptor import guarded, status_name
from service.edge.guard.security import caller, peer_of


class Act(NamedTuple):
    """An audited method: its name in the log, and the request's fields to log, as dotted paths."""

    action: str
    fields: tuple[str, ...]


ACTS = {
    "/freshet.v1.Models/Create": Act("create", ("name",)),
    "/freshet.v1.Models/Update": Act("update", ("name", "changes", "defaults")),
    "/freshet.v1.Models/Delete": Act("delete", ("name", "erase")),
    "/freshet.v1.Models/Promote": Act("promote", ("name", "version")),
    "/freshet.v1.Models/Rollback": Act("rollback", ("name", "version")),
    "/freshet.v1.Models/Pause": Act("pause", ("name",)),
    "/freshet.v1.Models/Resume": Act("resume", ("name",)),
    "/freshet.v1.Models/Import": Act("import", ("name",)),
    "/freshet.v1.Models/Export": Act("export", ("name", "version")),
    "/freshet.v1.Streams/Put": Act("state put", ("stream.model", "stream.stream")),
    "/freshet.v1.Streams/Delete": Act("state delete", ("model", "stream", "erase")),
    "/freshet.v1.Training/Replay": Act("quarantine replay", ("model",)),
}
NOT_ACTS = {  # listed, so that a new method must be entered here or above
    "/freshet.v1.Models/Get", "/freshet.v1.Models/List", "/freshet.v1.Models/Versions", "/freshet.v1.Models/Watch",
    "/freshet.v1.Streams/Open", "/freshet.v1.Streams/Mux", "/freshet.v1.Streams/Get", "/freshet.v1.Streams/List",
    "/freshet.v1.Streams/Errors",
    "/freshet.v1.Training/Learn", "/freshet.v1.Training/Quarantine", "/freshet.v1.Cluster/Nodes",
    *(
        f"/inference.GRPCInferenceService/{name}"
        for name in (
            "ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig",
            "ModelStatistics", "ModelInfer", "ModelStreamInfer", "RepositoryIndex",
            # Not offered, hence never done:
            "RepositoryModelLoad", "RepositoryModelUnload", "SystemSharedMemoryStatus", "SystemSharedMemoryRegister",
            "SystemSharedMemoryUnregister", "CudaSharedMemoryStatus", "CudaSharedMemoryRegister",
            "CudaSharedMemoryUnregister", "TraceSetting", "LogSettings",
        )
    ),
}  # fmt: skip


class Auditing(grpc.aio.ServerInterceptor):
    """Writes a line for each act when its call has ended. Place it inside `Security`, which identifies the caller."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method's handler if it is an act."""
        handler = await continuation(handler_call_details)
        act = ACTS.get(handler_call_details.method)
        if handler is None or act is None:
            return handler  # type: ignore[no-any-return]

        def guard(request: Any, context: Any) -> contextlib.AbstractAsyncContextManager[None]:
            return self._written(act, request, context)

        return guarded(handler, guard)  # type: ignore[no-any-return]

    @contextlib.asynccontextmanager
    async def _written(self, act: Act, request: Any, context: Any) -> AsyncIterator[None]:
        outcome = "unknown"
        try:
            yield
            outcome = OK
        except (asyncio.CancelledError, GeneratorExit):  # the act may still have taken effect
            outcome = "cancelled"
            raise
        except grpc.aio.AbortError:
            outcome = status_name(context.code()).lower()
            raise
        finally:
            write = self._audit.act if outcome in (OK, "cancelled") else self._audit.refused
            why = "" if outcome == OK else context.details() or b""
            why = why if isinstance(why, str) else why.decode(errors="replace")
            write(act.action, outcome, caller(), peer_of(context), **named(act, request), why=why)


def named(act: Act, request: Any) -> dict[str, object]:
    """Return the fields to log. A request about a model calls it `name`; the log calls it `model`."""
    found = {}
    for path in act.fields:
        value = request
        for part in path.split("."):
            value = getattr(value, part)
        last = path.rpartition(".")[2]
        if isinstance(value, Message):  # the names of its fields: their values may be long
            value = ", ".join(field.name for field, _ in value.ListFields())
        elif not isinstance(value, str | int):
            value = ", ".join(value)
        if value:  # version 0 stands for the serving version or the anchor
            found["model" if last == "name" else last] = value
    return found
