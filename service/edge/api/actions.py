"""Acts on a model over HTTP: what the same gRPC calls do, with the same roles, records, quotas and audit lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from service.access.audit import OK, Audit
from service.access.grants import Grant
from service.access.tenants import Tenants
from service.common.errors import Invalid, ServiceError
from service.common.names import ModelKey
from service.edge.api.asked import Asked
from service.edge.guard.auditing import ACTS
from service.edge.guard.in_flight import in_flight
from service.edge.guard.security import key
from service.edge.guard.statuses import STATUS, named
from service.edge.parts import Places
from service.publishing.control import Control
from service.streams.served import ServedModel
from service.viewing.looks import Viewing

Json = dict[str, Any]
VERSION = "version"


@dataclass(frozen=True, slots=True)
class Action:
    """One act. method: the gRPC method that does the same. takes: the fields of its body."""

    method: str
    run: Callable[[Control, ModelKey, int], Awaitable[ServedModel]]
    takes: tuple[str, ...] = ()


ACTIONS = {
    "pause": Action("/freshet.v1.Models/Pause", lambda control, key, version: control.pause(key)),
    "resume": Action("/freshet.v1.Models/Resume", lambda control, key, version: control.resume(key)),
    "rollback": Action("/freshet.v1.Models/Rollback", Control.roll_back, (VERSION,)),
    "promote": Action("/freshet.v1.Models/Promote", Control.promote, (VERSION,)),
}


class Acting:
    """Acts of callers on their models."""

    def __init__(self, places: Places, viewing: Viewing, tenants: Tenants, audit: Audit) -> None:
        self._places, self._viewing, self._tenants, self._audit = places, viewing, tenants, audit

    async def act(self, asked: Asked, grant: Grant, name: str, action: Action) -> Json:
        """Do it and return MODEL. Answers once it is on disk. Raises what the gRPC method answers with."""
        with self._call(grant):
            body = await asked.document(action.takes)
            version = number(body.get(VERSION, 0))
            size = int(asked.headers.get("content-length") or 0)
            with in_flight(self._tenants.of(grant.tenant), size):
                async with self._audited(action, grant, asked.peer, name, version):
                    parts = await self._places.of(key(name))
                    model = await action.run(parts.control, key(name), version)
                    return self._viewing.model(parts.seen, model)

    def _call(self, grant: Grant) -> OpenCall:
        return OpenCall(self._tenants, grant.tenant)

    @asynccontextmanager
    async def _audited(self, action: Action, grant: Grant, peer: str, name: str, version: int) -> AsyncIterator[None]:
        outcome, why = "unknown", ""
        try:
            with named():
                yield
            outcome = OK
        except (asyncio.CancelledError, GeneratorExit):  # the act may still have taken effect
            outcome = "cancelled"
            raise
        except ServiceError as error:
            outcome, why = STATUS[type(error)].name.lower(), str(error)
            raise
        finally:
            write = self._audit.act if outcome in (OK, "cancelled") else self._audit.refused
            facts = {"model": name, VERSION: version or ""}
            write(ACTS[action.method].action, outcome, grant, peer, **facts, why=why)


class OpenCall:
    """A call of a tenant that is open for the length of a block, counted against its quota."""

    def __init__(self, tenants: Tenants, tenant: str) -> None:
        self._tenant = tenants.of(tenant)

    def __enter__(self) -> None:
        self._tenant.begin_call()

    def __exit__(self, *error: object) -> None:
        self._tenant.end_call()


def number(value: object) -> int:
    """Return the number of a version; 0: the anchor. Raises Invalid."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise Invalid(VERSION, value, "give the number of a version: list them")
    return value
