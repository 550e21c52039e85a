"""The application: which request is answered by what. Every exception ends in a reply, and a bug also in the log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from service.access.audit import Audit
from service.access.grants import Access
from service.access.tenants import Tenants
from service.common.errors import Moved, NotFound, ServiceError
from service.common.limits import MAX_REPLY_BYTES
from service.edge.api import events, failures
from service.edge.api.access import Entry
from service.edge.api.actions import ACTIONS, Acting
from service.edge.api.asked import Asked
from service.edge.api.events import Watches, farewell
from service.edge.api.failures import NotAllowed
from service.edge.api.page import Page
from service.edge.api.replies import Replies
from service.edge.api.routes import About, Answers, Names, Route, match, too_large
from service.edge.api.sending import TEXT, Reply, Sending, Stuck
from service.edge.guard.security import Security
from service.edge.guard.statuses import named
from service.edge.parts import Places
from service.observe.server_metrics import AccessMetrics
from service.viewing.looks import Viewing

API = ("api", "v1")
ACT = ("models", "{model}", "{action}")
INDEX = (
    b"freshet: /metrics for Prometheus, /healthz for liveness, /readyz for readiness, /api/v1 for JSON, "
    b"and a page here for browsers\n"
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the application. host: as the operator wrote it in the setting `http`.

    write_s: the time that a client may take for each piece of a reply.
    """

    host: str
    write_s: float


class Application:
    """The page, the JSON API and its event streams, as one ASGI application. For the event loop."""

    def __init__(
        self,
        settings: Settings,
        places: Places,
        viewing: Viewing,
        about: About,
        security: Security,
        access: Callable[[], Access],
        tenants: Tenants,
        audit: Audit,
        metrics: AccessMetrics,
        clock: Callable[[], float],
    ) -> None:
        """access: returns the rules in force. clock: monotonic seconds."""
        self._write_s, self._metrics, self._places = settings.write_s, metrics, places
        self._entry = Entry(security, access, settings.host)
        self._encode, self._replies = viewing.encode, Replies(clock)
        self._routes = Answers(places, viewing, about).routes()
        self._acting = Acting(places, viewing, tenants, audit)
        self.watches = Watches(places, viewing, tenants)
        self._page = Page.of_package()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            asked = Asked.of(scope, receive, send)
        except ServiceError as error:
            asked = Asked(scope, receive, send, "GET", "", (), {}, scope["client"])
            await self._refuse(Sending(asked, self._write_s), error)
            return
        sending = Sending(asked, self._write_s)
        try:
            await self._answer(asked, sending)
        except Stuck:
            self._metrics.cut_calls.inc()
        except Exception as error:
            await self._refuse(sending, failures.ours(error))

    async def _answer(self, asked: Asked, sending: Sending) -> None:
        self._entry.check_host(asked)
        if asked.path[:2] != API:
            await sending.reply(self._static(asked))
            return
        path = asked.path[2:-1] if asked.path[-1] == "" else asked.path[2:]
        self._entry.check_site(asked)
        with named():
            if path == events.PATTERN:
                self._check_method(asked, "GET")
                await self._watch(asked, sending)
            elif acted := match(ACT, path) if asked.method == "POST" else None:
                await sending.reply(Reply(200, await self._act(asked, acted)))
            else:
                await sending.reply(Reply(200, await self._read(asked, path)))

    def _static(self, asked: Asked) -> Reply:
        """Return a file of the page, or why there is none."""
        if asked.path in ((), ("",)):
            self._check_method(asked, "GET", "HEAD")
            return self._page.index(asked.headers) or Reply(200, INDEX, TEXT)
        if asked.path[0] == "page":
            self._check_method(asked, "GET", "HEAD")
            return self._page.file(asked.path[1:], asked.headers)
        return Reply(404, b"no such path: see /\n", TEXT)

    @staticmethod
    def _check_method(asked: Asked, *allowed: str) -> None:
        if asked.method not in allowed:
            raise NotAllowed(asked.method, ", ".join(allowed))

    # ---- the API

    async def _read(self, asked: Asked, path: tuple[str, ...]) -> bytes:
        route, names = self._route(path, asked)
        async with self._entry.admitted(asked, route.method) as grant:
            query = asked.query(route.fields)

            async def make() -> bytes:
                answer = await route.answer(asked, names, query)
                return await self._encoded(answer)

            return await (self._replies.get(grant.tenant, asked.target, make) if route.kept else make())

    async def _encoded(self, answer: object) -> bytes:
        """Return an answer as JSON, made beside the loop."""
        data = await asyncio.to_thread(self._encode, answer)
        if len(data) > MAX_REPLY_BYTES:
            raise too_large(len(data), MAX_REPLY_BYTES)
        return data

    def _route(self, path: tuple[str, ...], asked: Asked) -> tuple[Route, Names]:
        for route in self._routes:
            if (names := route.match(path)) is not None:
                self._check_method(asked, "GET")
                return route, names
        acts = match(ACT, path)
        if acts and acts["action"] in ACTIONS:
            self._check_method(asked, "POST")
        raise NotFound("path", asked.target, "no such path: docs/api-http.md lists them")

    async def _act(self, asked: Asked, names: Names) -> bytes:
        action = ACTIONS.get(names["action"])
        if action is None:
            self._route(asked.path[2:], asked)  # raises
            raise AssertionError("a path of an act is of a route, or of none")
        self._entry.check_act(asked)
        async with self._entry.admitted(asked, action.method) as grant:
            try:
                return await self._encoded(await self._acting.act(asked, grant, names["model"], action))
            finally:
                self._replies.forget(grant.tenant)

    async def _watch(self, asked: Asked, sending: Sending) -> None:
        async with self._entry.admitted(asked, events.METHOD) as grant:
            await self.watches.run(asked, sending, grant)

    # ---- refusals

    async def _refuse(self, sending: Sending, error: ServiceError) -> None:
        """Answer with an error; where the answer has begun, it is the last event of the stream."""
        try:
            if sending.started:
                await sending.piece(farewell(error.remedy))
                await sending.end()
                return
            http = self._places.http_of(error.address) if isinstance(error, Moved) else ""
            body = json.dumps(failures.facts(error, http)).encode()
            reply = Reply(failures.STATUS[type(error)], body, headers=failures.headers(error))
            await sending.reply(reply)
        except Stuck:
            self._metrics.cut_calls.inc()
