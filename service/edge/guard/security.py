"""Authentication and authorization of calls. A method is closed unless its proto names the role that may call it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION

from freshet.v1 import access_pb2
from service.access.audit import Audit
from service.access.grants import Access, Grant, Role, refused
from service.common.errors import Forbidden, Unauthenticated
from service.common.names import ModelKey
from service.edge.guard.interceptor import guarded
from service.edge.guard.statuses import reason_of, statuses
from service.edge.guard.strangers import Strangers
from service.observe.server_metrics import AccessMetrics

PUBLIC = "/grpc.health.v1.Health/Check"  # without a token: load balancers and supervisors call it
ANY_ROLE = (f"/{REFLECTION}/", "/grpc.health.v1.Health/")  # prefixes of methods; a token is needed
REFUSED = "token refused"  # the action of an audit line
_CALLER: ContextVar[Grant] = ContextVar("caller")


def caller() -> Grant:
    """Return the grant of the current call. Raises LookupError outside of calls."""
    return _CALLER.get()


def key(name: str) -> ModelKey:
    """Return the key of the caller's model of that name."""
    return ModelKey(caller().tenant, name)


def required(method: str) -> Role | None:
    """Return the lowest role that may call a method, "/package.Service/Method"; None: no role may."""
    if method.startswith(ANY_ROLE):
        return Role.PREDICT
    try:
        options = descriptor_pool.Default().FindMethodByName(method.strip("/").replace("/", ".")).GetOptions()
    except KeyError:
        return None
    role = options.Extensions[access_pb2.role]
    return Role(role) if role else None


def peer_of(context: Any) -> str:
    """Return the peer of a call, with gRPC's scheme: ipv4:HOST:PORT."""
    return unquote(context.peer() or "")


def check_role(grant: Grant, method: str) -> None:
    """Raise Forbidden unless the grant's role may call the method."""
    role = required(method)
    if role is None:
        raise Forbidden("method", method, "no role may call it")
    if grant.role < role:
        remedy = f"{method} needs the role {role.name.lower()}: use a token that has it"
        raise Forbidden("role", grant.role.name.lower(), remedy)


def check_may_erase() -> None:
    """Raise Forbidden unless the caller is an administrator: erasing deletes journal of every model."""
    if caller().role < Role.ADMIN:
        raise Forbidden("erase", "true", "needs the role admin: use a token that has it, or delete without it")


def check_sees_all(grant: Grant) -> None:
    """Raise Forbidden unless the grant may read the metrics of all tenants."""
    if not grant.sees_all:
        remedy = "metrics cover all tenants: use a token of role metrics, or of tenant default's role admin"
        raise Forbidden("role", grant.role.name.lower(), remedy)


class Admitted:
    """An admitted call. revoked: its token has expired or was revoked, and the call is being ended."""

    __slots__ = ("grant", "peer", "revoked", "task")

    def __init__(self, grant: Grant, peer: str) -> None:
        self.grant, self.peer, self.task, self.revoked = grant, peer, asyncio.current_task(), False

    def __repr__(self) -> str:
        return f"Admitted({self.grant!r}, peer={self.peer!r}, revoked={self.revoked})"


class Security(grpc.aio.ServerInterceptor):
    """Admits calls by their `authorization` metadata; ends a call when its token expires or is revoked."""

    def __init__(
        self,
        access: Callable[[], Access],
        metrics: AccessMetrics,
        wall: Callable[[], float] = time.time,
        audit: Audit | None = None,
    ) -> None:
        """access: returns the rules in force. wall: seconds since 1970. audit: where refusals are logged."""
        self._access, self._metrics, self._wall = access, metrics, wall
        self._audit = audit or Audit()
        self._calls: set[Admitted] = set()
        self.strangers = Strangers(metrics.strangers)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method's handler."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method == PUBLIC:
            return handler  # type: ignore[no-any-return]
        method, sent = handler_call_details.method, handler_call_details.invocation_metadata or ()
        authorization = next((value for name, value in sent if name == "authorization"), None)

        def guard(request: Any, context: Any) -> contextlib.AbstractAsyncContextManager[None]:
            return self._admitted(context, method, authorization)

        return guarded(handler, guard)  # type: ignore[no-any-return]

    @contextlib.asynccontextmanager
    async def _admitted(self, context: Any, method: str, authorization: str | None) -> AsyncIterator[None]:
        async with (
            statuses(context),
            self.admitted(authorization, lambda grant: check_role(grant, method), method, peer_of(context)),
        ):
            self.strangers.admit(context.peer())
            yield

    @contextlib.asynccontextmanager
    async def admitted(
        self, authorization: str | None, check: Callable[[Grant], None], asked: str, peer: str
    ) -> AsyncIterator[Grant]:
        """Admit the current task for the length of the block, as a call of its caller; `sweep` ends it.

        check: raises Forbidden if the grant does not allow `asked`. peer: for the audit log. Raises Unauthenticated,
        also when the token expires or is revoked inside the block, and Forbidden.
        """
        call = Admitted(self._admit(authorization, check, asked, peer), peer)
        _CALLER.set(call.grant)
        self._calls.add(call)
        try:
            yield call.grant
        except asyncio.CancelledError:
            if not call.revoked or call.task is None or call.task.uncancel():
                raise
            raise refused("a token", "it is no longer valid for this call: ask the operator for another") from None
        finally:
            self._calls.discard(call)

    def check_metrics(self, authorization: str | None, peer: str) -> None:
        """Raise Unauthenticated or Forbidden unless the token may read the metrics of all tenants."""
        self._admit(authorization, check_sees_all, "/metrics", peer)

    def _admit(self, authorization: str | None, check: Callable[[Grant], None], asked: str, peer: str) -> Grant:
        """Return the caller's grant. check: raises Forbidden if the grant does not allow `asked`."""
        grant = None
        try:
            grant = self._access().admit(authorization, self._wall())
            check(grant)
        except (Unauthenticated, Forbidden) as error:
            self._metrics.denied.labels(reason_of(error)).inc()
            self._audit.refused(REFUSED, reason_of(error), grant, peer, asked=asked, why=error.remedy)
            raise
        return grant

    def sweep(self) -> int:
        """End the calls whose token has expired or was revoked. Returns their number."""
        access, now = self._access(), self._wall()
        late = [call for call in self._calls if not call.revoked and not access.still_valid(call.grant, now)]
        for call in late:
            call.revoked = True
            self._audit.act("call ended", "revoked", call.grant, call.peer)
            if call.task is not None:
                call.task.cancel()
        self._metrics.revoked.inc(len(late))
        return len(late)
