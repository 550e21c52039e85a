"""Event streams: what a viewer sees of a model, as server-sent events, until one of both sides leaves."""

from __future__ import annotations

import asyncio
from typing import Any

from service.access.grants import Grant
from service.access.tenants import Tenants
from service.common.errors import Invalid
from service.common.tasks import end
from service.edge.api.actions import OpenCall
from service.edge.api.asked import Asked, Query, whole
from service.edge.api.sending import Sending
from service.edge.guard.security import key
from service.edge.parts import Places
from service.viewing.encoding import event
from service.viewing.looks import Viewing
from service.viewing.seen import MAX_STREAMS, SHOW, Ended, Subject, Viewer

METHOD = "/freshet.v1.Models/Watch"
PATTERN = ("watch",)
FIELDS = ("model", "stream", "target", "step", "ghost", "show")
KIND = "text/event-stream"
ALIVE_S = 10.0  # between two signs of life of a stream on which nothing moves
RETRY = b"retry: 1000\n\n"  # milliseconds after which a browser would connect again
ALIVE = b": alive\n\n"


class Watches:
    """The event streams of a process. peers: of each, (host, port)."""

    def __init__(self, places: Places, viewing: Viewing, tenants: Tenants) -> None:
        self._places, self._viewing, self._tenants = places, viewing, tenants
        self.peers: set[Any] = set()

    async def run(self, asked: Asked, sending: Sending, grant: Grant) -> None:
        """Send what moves, until the client leaves or the view ends. Raises Stuck once it takes nothing."""
        name, subject = subject_of(asked.query(FIELDS))
        first = subject.streams[0] if subject.streams else ""
        parts = await self._places.of(key(name), first)
        model = parts.catalog.model(key(name))
        with OpenCall(self._tenants, grant.tenant):
            async with self._viewing.watch(parts.seen, model, subject, grant.sees_all) as viewer:
                self.peers.add(asked.client)
                try:
                    await sending.start(200, KIND, {"X-Accel-Buffering": "no"})
                    await sending.piece(RETRY)
                    await _pass_on(viewer, asked, sending)
                finally:
                    self.peers.discard(asked.client)


async def _pass_on(viewer: Viewer, asked: Asked, sending: Sending) -> None:
    """Send a viewer's events as they come, and a sign of life in between."""
    leaving = asyncio.create_task(asked.left())
    leaving.add_done_callback(lambda _: viewer.end("the viewer has left"))
    try:
        while not leaving.done():
            await sending.piece(await viewer.next(ALIVE_S) or ALIVE)
    except Ended:
        await sending.end()
    finally:
        await end([leaving])


def subject_of(query: Query) -> tuple[str, Subject]:
    """Return the model that a query names, and what it asks to see of it. Raises Invalid."""
    streams, show = query.texts("stream"), query.text("show", ",".join(sorted(SHOW)))
    if len(streams) > MAX_STREAMS:
        raise Invalid("stream", f"{len(streams)} streams", f"watch at most {MAX_STREAMS} at once")
    wanted = frozenset(show.split(",")) if show else frozenset()
    if unknown := wanted - SHOW:
        raise Invalid("show", min(unknown), f"choose some of {', '.join(sorted(SHOW))}")
    name, step = query.text("model"), whole("step", query.text("step", "1"))
    if not name:
        raise Invalid("model", "(none)", "name the model to watch")
    return name, Subject(tuple(dict.fromkeys(streams)), query.text("target"), step, query.text("ghost", "open"), wanted)


def farewell(reason: str) -> bytes:
    """Return the last event of a stream that the server ends."""
    return event("bye", {"reason": reason})
