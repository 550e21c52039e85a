"""The Open Inference Protocol over HTTP: every path below /v2. Who may ask, and how much, is as for gRPC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Receive, Scope, Send

from service.access.tenants import Tenants
from service.common.errors import Forbidden, Invalid, NotFound, ServiceError, Unavailable
from service.common.limits import REQUEST_S
from service.edge.api import failures
from service.edge.api.access import Entry, is_own
from service.edge.api.asked import Asked
from service.edge.api.failures import NotAllowed
from service.edge.api.sending import Reply, Sending, Stuck
from service.edge.guard.in_flight import in_flight
from service.edge.guard.security import caller
from service.edge.guard.statuses import named
from service.edge.oip import bodies
from service.edge.oip.cards import Cards
from service.edge.oip.inferring import Inferring

PREFIX = "v2"
METHODS = "/inference.GRPCInferenceService/"  # whose roles the paths have
LARGE_BYTES = 1 << 15  # a body that is parsed beside the loop: in it, that would take milliseconds


@dataclass(frozen=True, slots=True)
class Path:
    """One kind of path. pattern: {model} and {version} stand for any segment. method: the gRPC method of its role."""

    pattern: tuple[str, ...]
    verb: str
    method: str
    answer: Callable[[Asked, str, str], Awaitable[Reply]]

    def match(self, path: tuple[str, ...]) -> tuple[str, str] | None:
        """Return the model and version that a path names, "" for none; None: it is of another kind."""
        if len(path) != len(self.pattern):
            return None
        names = {"{model}": "", "{version}": ""}
        for word, segment in zip(self.pattern, path, strict=True):
            if word in names:
                names[word] = segment
            elif word != segment:
                return None
        return names["{model}"], names["{version}"]


class Rest:
    """One ASGI application. For the event loop."""

    def __init__(
        self,
        inferring: Inferring,
        cards: Cards,
        entry: Entry,
        tenants: Tenants,
        cut: Callable[[], None],
        write_s: float,
        most_bytes: int,
    ) -> None:
        """cut: called when a connection was cut because its client takes a piece of an answer for longer than write_s
        seconds. most_bytes: of a body."""
        self._inferring, self._cards, self._entry, self._tenants = inferring, cards, entry, tenants
        self._cut, self._write_s, self._most_bytes = cut, write_s, most_bytes
        model, of_version = ("models", "{model}"), ("models", "{model}", "versions", "{version}")
        self._paths = [
            Path((), "GET", "ServerMetadata", self._server),
            Path(("health", "live"), "GET", "ServerLive", self._live),
            Path(("health", "ready"), "GET", "ServerReady", self._ready),
            Path(("models", "stats"), "GET", "ModelStatistics", self._stats),
            Path(("repository", "index"), "POST", "RepositoryIndex", self._index),
            *(
                Path((*start, *end), verb, method, answer)
                for start in (model, of_version)
                for end, verb, method, answer in (
                    ((), "GET", "ModelMetadata", self._metadata),
                    (("ready",), "GET", "ModelReady", self._model_ready),
                    (("config",), "GET", "ModelConfig", self._config),
                    (("stats",), "GET", "ModelStatistics", self._stats),
                    (("infer",), "POST", "ModelInfer", self._infer),
                )
            ),
        ]

    def routes(self) -> list[BaseRoute]:
        """Return the routes to this application."""
        return [Route(f"/{PREFIX}", self), Mount(f"/{PREFIX}", self)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Every exception ends in a reply, and a bug also in the log."""
        asked = Asked(scope, receive, send, scope["method"], "", (), {}, scope["client"])
        try:
            asked = Asked.of(scope, receive, send)
            reply = await self._answer(asked)
        except Exception as error:
            reply = refusal(failures.ours(error))
        try:
            await Sending(asked, self._write_s).reply(reply)
        except Stuck:
            self._cut()

    async def _answer(self, asked: Asked) -> Reply:
        self._entry.check_host(asked)
        self._entry.check_site(asked)
        origin = asked.headers.get("origin")
        if origin is not None and not is_own(origin, asked.headers.get("host", "")):
            raise Forbidden("origin", origin, "only pages of this server may call it from a browser")
        path, model, version = self._path(asked)
        async with self._entry.admitted(asked, METHODS + path.method):
            with named():
                return await path.answer(asked, model, version)

    def _path(self, asked: Asked) -> tuple[Path, str, str]:
        """Return the kind of a path, and the model and version in it. Raises NotFound, NotAllowed."""
        segments = asked.path[1:-1] if asked.path[-1] == "" else asked.path[1:]
        for path in self._paths:
            if (found := path.match(segments)) is not None:
                if asked.method != path.verb:
                    raise NotAllowed(asked.method, path.verb)
                return path, *found
        raise NotFound("path", asked.target, "no such path: docs/oip.md lists them")

    # ---- the server and its models

    async def _server(self, asked: Asked, model: str, version: str) -> Reply:
        return _json(self._cards.server())

    async def _live(self, asked: Asked, model: str, version: str) -> Reply:
        return _json({"live": True})

    async def _ready(self, asked: Asked, model: str, version: str) -> Reply:
        return _readiness(self._cards.ready(), {})

    async def _model_ready(self, asked: Asked, model: str, version: str) -> Reply:
        return _readiness(await self._cards.model_ready(model, version), {"name": model})

    async def _metadata(self, asked: Asked, model: str, version: str) -> Reply:
        return _json(await self._cards.metadata(model, version))

    async def _config(self, asked: Asked, model: str, version: str) -> Reply:
        return _json(await self._cards.config(model, version))

    async def _stats(self, asked: Asked, model: str, version: str) -> Reply:
        return _json({"model_stats": await self._cards.statistics(model, version)})

    async def _index(self, asked: Asked, model: str, version: str) -> Reply:
        return _json(self._cards.index())

    # ---- inference

    async def _infer(self, asked: Asked, model: str, version: str) -> Reply:
        if encoding := asked.headers.get("content-encoding"):
            raise Invalid("content-encoding", encoding, "send the body as it is")
        body, length = await self._body(asked), asked.headers.get(bodies.HEADER_LENGTH)
        with in_flight(self._tenants.of(caller().tenant), len(body)):
            if len(body) > LARGE_BYTES:
                read = await asyncio.to_thread(bodies.read, model, version, body, length)
            else:
                read = bodies.read(model, version, body, length)
            encoded = bodies.write(await self._inferring.infer(read.request), read)
        if encoded.json_bytes is None:
            return Reply(200, encoded.body)
        return Reply(200, encoded.body, bodies.BINARY, {"Inference-Header-Content-Length": str(encoded.json_bytes)})

    async def _body(self, asked: Asked) -> bytes:
        """Return the body. Raises Invalid beyond the limit, or if it does not come in time."""
        pieces, size, more = [], 0, True
        try:
            async with asyncio.timeout(REQUEST_S):
                while more:
                    message = await asked.receive()
                    if message["type"] == "http.disconnect":
                        raise Invalid("body", "incomplete", "send all of it")
                    pieces.append(message.get("body", b""))
                    size, more = size + len(pieces[-1]), message.get("more_body", False)
                    if size > self._most_bytes:
                        raise Invalid("body", f"{size} bytes", f"send at most {self._most_bytes} bytes")
        except TimeoutError:
            raise Invalid("body", "incomplete", f"send the request within {REQUEST_S:g} s") from None
        return b"".join(pieces)


def _json(value: Any) -> Reply:
    return Reply(200, json.dumps(value).encode())


def _readiness(ready: bool, facts: dict[str, str]) -> Reply:
    """Return the reply that Triton's clients understand by its status, and KServe's by its body."""
    return (
        _json(facts | {"ready": True})
        if ready
        else refusal(Unavailable("server", "not ready", "try again", retry_s=1.0))
    )


def refusal(error: ServiceError) -> Reply:
    """Return the reply to an error: its text where the protocol's clients look, and what ours look for beside it."""
    found = failures.facts(error)["error"] | {"error": str(error)}
    return Reply(failures.STATUS[type(error)], json.dumps(found).encode(), headers=failures.headers(error))
