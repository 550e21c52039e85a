"""The routes under /api/v1 that answer a GET: path, gRPC method whose role each needs, fields of the query, answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from service.access.grants import Grant, Role
from service.common.errors import Invalid
from service.edge.api.access import ANY_TOKEN, SEES_ALL
from service.edge.api.asked import Asked, Query, whole
from service.edge.api.models import models_of
from service.edge.guard.security import caller, key
from service.edge.parts import Parts, Places
from service.edge.spread import part_and_after
from service.streams.served import ServedModel
from service.viewing.answers import MAX_PAGE, MAX_WORST
from service.viewing.looks import Viewing
from service.viewing.seen import MAX_TICKS

PAGE = 100  # models or streams of one list
EVENTS, MAX_EVENTS = 128, 1024
TICKS = 256
WORST = 10
MODELS, STREAMS = "/freshet.v1.Models", "/freshet.v1.Streams"

Json = dict[str, Any]
Names = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Route:
    """One path. pattern: segments after /api/v1; {NAME} stands for any. method: of gRPC, or a word of `access`.

    fields: names that the query may have. kept: whether the reply is the same for all callers of a tenant.
    """

    pattern: tuple[str, ...]
    method: str
    answer: Callable[[Asked, Names, Query], Awaitable[Json]]
    fields: tuple[str, ...] = ()
    kept: bool = True

    def match(self, path: tuple[str, ...]) -> Names | None:
        """Return the names of a path that is this route's; None for another."""
        return match(self.pattern, path)


def match(pattern: tuple[str, ...], path: tuple[str, ...]) -> Names | None:
    """Return what stands in a path for each {NAME} of a pattern; None if they differ."""
    if len(pattern) != len(path):
        return None
    names = {}
    for wanted, found in zip(pattern, path, strict=True):
        if wanted.startswith("{"):
            names[wanted[1:-1]] = found
        elif wanted != found:
            return None
    return names


@dataclass(frozen=True, slots=True)
class About:
    """What a server says of itself. started: seconds since 1970."""

    version: str
    started: float
    wall: Callable[[], float]
    is_open: Callable[[], bool]

    def of(self, grant: Grant, node: str) -> Json:
        """Return the reply of the API's root for a caller. node: the address of this node; "": a single server."""
        return {
            "api": 1,
            "version": self.version,
            "started": self.started,
            "now": self.wall(),
            "open": self.is_open(),
            "tenant": grant.tenant,
            "role": grant.role.name.lower(),
            "sees_all": grant.sees_all,
            "node": node,
            "may": {"act": grant.role >= Role.ADMIN},
        }


class Answers:
    """What each route answers."""

    def __init__(self, places: Places, viewing: Viewing, about: About) -> None:
        self._places, self._viewing, self._about = places, viewing, about

    def routes(self) -> tuple[Route, ...]:
        """Return every route of a GET but /watch."""
        model, stream = ("models", "{model}"), ("models", "{model}", "streams", "{stream}")
        return (
            Route((), ANY_TOKEN, self.root, kept=False),
            Route(("models",), f"{MODELS}/List", self.models, ("after", "limit", "match")),
            Route(model, f"{MODELS}/Get", self.model),
            Route((*model, "streams"), f"{STREAMS}/List", self.streams, ("after", "limit", "match")),
            Route((*stream, "ticks"), f"{STREAMS}/Get", self.ticks, ("last", "target", "step")),
            Route((*stream, "ticks", "{seq}"), f"{STREAMS}/Get", self.point),
            Route((*model, "errors"), f"{STREAMS}/Errors", self.errors, ("worst",)),
            Route((*model, "versions"), f"{MODELS}/Versions", self.versions),
            Route((*model, "events"), f"{MODELS}/Watch", self.events, ("last",)),
            Route((*model, "gradients"), f"{MODELS}/Get", self.gradients),
            Route(("service",), SEES_ALL, self.service),
        )

    async def found(self, name: str, stream: str = "") -> tuple[Parts, ServedModel]:
        """Return the caller's model and the parts of its shard; of a model in slices, those that have the stream."""
        parts = await self._places.of(key(name), stream)
        return parts, parts.catalog.model(key(name))

    async def root(self, asked: Asked, names: Names, query: Query) -> Json:
        """Answer who the caller is, and what the server is."""
        return self._about.of(caller(), self._places.address)

    async def models(self, asked: Asked, names: Names, query: Query) -> Json:
        """Answer a page of the tenant's models, by name."""
        limit = query.whole("limit", PAGE, MAX_PAGE)
        after, match = query.text("after"), query.text("match").lower()
        return await models_of(self._places, self._viewing, asked.authorization, after, limit, match)

    async def model(self, asked: Asked, names: Names, query: Query) -> Json:
        """Answer one model, with its spec."""
        parts, model = await self.found(names["model"])
        spec = model.spec.to_mapping()
        return {**self._viewing.model(parts.seen, model), "spec": spec, "clip": spec.get("clip")}

    async def streams(self, asked: Asked, names: Names, query: Query) -> Json:
        """Answer a page of a model's streams; of a model in slices, slice by slice."""
        limit, after, match = query.whole("limit", PAGE, MAX_PAGE), query.text("after"), query.text("match")
        slices, part = await self._places.slices(key(names["model"])), None
        if slices:
            part, after = part_and_after(after, slices)
        parts = await self._places.of(key(names["model"]), part=part)
        model = parts.catalog.model(key(names["model"]))
        page = await self._viewing.streams(parts.seen, model, after, limit, match)
        if part is not None and (page["next"] or part + 1 < slices):
            page["next"] = f"{part}:{page['next']}" if page["next"] else f"{part + 1}:"
        return page

    async def ticks(self, asked: Asked, names: Names, query: Query) -> Json:
        """Answer the last ticks of a stream."""
        parts, model = await self.found(names["model"], names["stream"])
        step, last = query.whole("step", 1, model.spec.horizon), query.whole("last", TICKS, MAX_TICKS)
        return await self._viewing.block(parts.seen, model, names["stream"], query.text("target"), step, last)

    async def point(self, asked: Asked, names: Names, query: Query) -> Json:
        """Answer one tick of a stream."""
        seq = whole("seq", names["seq"])
        parts, model = await self.found(names["model"], names["stream"])
        return await self._viewing.point(parts.seen, model, names["stream"], seq)

    async def errors(self, asked: Asked, names: Names, query: Query) -> Json:
        """Answer the trainer's errors."""
        parts, model = await self.found(names["model"])
        return await self._viewing.errors(parts.seen, model, query.whole("worst", WORST, MAX_WORST))

    async def versions(self, asked: Asked, names: Names, query: Query) -> Json:
        """Answer the kept versions."""
        parts, model = await self.found(names["model"])
        return {"versions": await self._viewing.versions(parts.seen, model)}

    async def events(self, asked: Asked, names: Names, query: Query) -> Json:
        """Answer the last events of a model."""
        parts, model = await self.found(names["model"])
        return {"events": self._viewing.events(parts.seen, model.key, query.whole("last", EVENTS, MAX_EVENTS))}

    async def gradients(self, asked: Asked, names: Names, query: Query) -> Json:
        """Answer the gradients of the trainer's last report."""
        parts, model = await self.found(names["model"])
        return self._viewing.gradient(parts.seen, model)

    async def service(self, asked: Asked, names: Names, query: Query) -> Json:
        """Answer the figures of the process."""
        return self._viewing.service([parts.seen for parts in self._places.here()])


def too_large(size: int, most: int) -> Invalid:
    """Return the error of a reply that would be too large."""
    return Invalid("reply", f"{size} bytes", f"at most {most} bytes are sent: ask for fewer")
