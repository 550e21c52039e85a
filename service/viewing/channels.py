"""Who watches what: one channel for each subject, shared by its viewers, which looks only while it has one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import structlog

from service.common.errors import NotFound, Unavailable
from service.observe.events import DELETED, REMEMBERED, Event
from service.observe.metrics import value_of
from service.streams.served import ServedModel
from service.viewing.encoding import event
from service.viewing.facts import gradient_facts, model_facts, shown_event
from service.viewing.ghost import Ghosts
from service.viewing.samples import Sampler, without_process
from service.viewing.scene import Scene, Shown
from service.viewing.seen import Seen, Subject, Viewer
from service.viewing.states import Loaded
from service.viewing.ticks import Lens

log = structlog.get_logger("viewing")

LOOK_S = 0.25  # between two looks of a channel
SPREAD_S = 0.002  # between the writes to two viewers
FACTS_S = 1.0  # between two looks at what changes slowly
SINGLE_EVENTS = 4  # of a model, in one look; more are sent as one list
DELETED_REASON, LEAVES = "the model was deleted", "the server leaves: connect again"
OF_STREAMS = frozenset({"ticks", "state", "scores"})

Json = dict[str, Any]
InThread = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Tools:
    """What all channels of a process share."""

    in_thread: InThread  # runs a function with arguments beside the loop
    ghosts: Ghosts
    loaded: Loaded
    pause: Callable[[float], Awaitable[None]]
    started: float  # seconds since 1970


class Channel:
    """One subject of one model and its viewers. Looks when `look` is called; `run` does so LOOK_S apart."""

    def __init__(self, tools: Tools, seen: Seen, model: ServedModel, subject: Subject, version: int) -> None:
        """subject: resolved, with the streams that are shown; version: of the ghost, 0: none. Call `open` next."""
        self._tools, self._seen, self.model, self.subject = tools, seen, model, subject
        self._source, self._version = seen.catalog.source_of(model), version
        self._lens = Lens.of(self._source.spec, subject.target, subject.step)
        self.viewers: set[Viewer] = set()
        self.coming = 0  # viewers that are joining
        self.looks = 0
        self.ended = ""
        self.scene = Scene([], subject.show, tools.loaded, seen.versions)
        self._events: deque[Event] = deque(maxlen=REMEMBERED)
        self._changing = asyncio.Lock()  # of the scene
        self._looked_at = float("-inf")  # clock seconds, at facts
        self._facts: Json = {}
        self._report: object = None
        self._totals: dict[str, float] | None = None  # of updates and clipped ones, at the last report
        self._gradient: Json = {}
        self.sampler: Sampler | None = None
        self._sampled = 0
        self.sees_all = False

    # ---- life

    async def open(self, sampler: Sampler, sees_all: bool) -> None:
        """Take what the channel needs. Raises NotFound for a chosen ghost that is not kept; `close` it in any case."""
        self.sampler, self._sampled, self.sees_all = sampler, sampler.taken, sees_all
        self._seen.events.listeners.append(self._happened)
        await self._show(self.subject.streams)

    async def _show(self, streams: Iterable[str]) -> None:
        for id in streams if self.subject.show & OF_STREAMS else ():
            ghost = None
            if self._version and self._lens.step:
                chosen = self.subject.ghost != "open"
                ghost = await self._tools.ghosts.take(self._seen, self._source, self._version, id, chosen)
            shown = Shown(self._source, self._lens, id, ghost, "state" in self.subject.show)
            self.scene.streams.append(shown)

    def close(self) -> None:
        """Give back what the channel took."""
        self._seen.events.listeners.remove(self._happened)
        for stream in self.scene.streams:
            if stream.ghost is not None:
                self._tools.ghosts.give_back(self._source, stream.ghost.version, stream.id)
        self.scene.streams.clear()

    def end(self, reason: str) -> None:
        """End the view of every viewer."""
        self.ended = self.ended or reason
        for viewer in self.viewers:
            viewer.end(reason)

    def _happened(self, event: Event) -> None:
        if event.key == self.model.key and event.kind == DELETED:
            self.end(DELETED_REASON)
        elif event.key == self.model.key:
            self._events.append(event)

    async def run(self) -> None:
        """Look again and again, until cancelled or ended. An error ends the channel, not the server."""
        try:
            while not self.ended:
                await self._tools.pause(LOOK_S)
                await self.look()
        except Exception:
            log.exception("a view has failed", model=self.model.name)
            self.end("the view has failed: see the server's log")

    # ---- looking

    async def look(self) -> None:
        """Look once, and send what is new to every viewer."""
        async with self._changing:
            await self._look()
            if behind := [viewer for viewer in self.viewers if viewer.behind]:
                _send(behind, await self._tools.in_thread(self.scene.whole_blocks))
                for viewer in behind:
                    viewer.behind = False

    async def join(self, viewer: Viewer) -> None:
        """Send a new viewer all that is shown now; from here on it gets what is new. Raises NotFound, Unavailable."""
        async with self._changing:
            await self._look()
            if self.ended:
                raise self._why_ended()
            first, last = self._opening()
            _send([viewer], await self._tools.in_thread(self.scene.opening, first, last))
            self.viewers.add(viewer)
        if self.ended:  # meanwhile
            viewer.end(self.ended)

    def _why_ended(self) -> Exception:
        if self.model.deleted:
            return NotFound("model", self.model.name, "deleted meanwhile; list the models")
        return Unavailable("server", "leaving", self.ended, retry_s=1.0)

    async def _look(self) -> None:
        if self.model.deleted or self._source.deleted:
            self.end(DELETED_REASON)
        elif self._seen.admission.draining:
            self.end(LEAVES)
        if self.ended:
            return
        await self._adopt()
        seen = self._seen
        self.looks += 1
        look = self.scene.copy(seen.clock(), seen.wall(), self._new_facts())
        if look.copies or look.facts or look.with_scores or self.scene.is_behind:
            try:
                await self._spread(await self._tools.in_thread(self.scene.take, look))
            except asyncio.CancelledError:  # the events of this look are lost
                for viewer in self.viewers:
                    viewer.behind = True
                raise

    async def _spread(self, messages: list[bytes]) -> None:
        """Send messages to one viewer after the other: writes to all in one turn would keep ticks waiting."""
        for viewer in list(self.viewers) if messages else ():
            _send([viewer], messages)
            await asyncio.sleep(SPREAD_S)

    async def _adopt(self) -> None:
        """Show the first stream of a model that had none when the channel was opened, and greet again."""
        if self.subject.streams or self.scene.streams or not (self.subject.show & OF_STREAMS):
            return
        if stream := latest(self._source):
            await self._show([stream])
            _send(self.viewers, [event("hello", self._hello())])

    def _new_facts(self) -> list[tuple[str, Any]]:
        """Return what has changed beside the streams, as events that are not encoded yet."""
        events, found = [shown_event(each) for each in self._events], []
        self._events.clear()
        if len(events) > SINGLE_EVENTS:
            found.append(("events", {"events": events}))
        else:
            found += [("event", each) for each in events]
        now = self._seen.clock()
        if "samples" in self.subject.show and self.sampler is not None:
            self.sampler.look()
            found += [("sample", self._own(each)) for each in self.sampler.since(self._sampled)]
            self._sampled = self.sampler.taken
        if events or now - self._looked_at >= FACTS_S:
            self._looked_at, facts = now, model_facts(self._seen, self.model)
            if facts != self._facts:
                self._facts = facts
                found.append(("model", facts))
        if "gradient" in self.subject.show and self._has_report():
            found.append(("gradient", self._gradient))
        return found

    def _has_report(self) -> bool:
        """Whether the trainer has reported since the last look; notes its gradients."""
        progress = self._seen.metrics.of(self.model.key).learner
        if progress.report is self._report:
            return False
        self._report, before = progress.report, self._totals
        self._totals = {name: value_of(progress.totals[name]) for name in ("updates", "clipped")}
        self._gradient = gradient_facts(progress, self.model.spec.clip, self._seen.wall(), before)
        return True

    def _own(self, sample: Json) -> Json:
        return sample if self.sees_all else without_process(sample)

    # ---- greeting

    def _hello(self) -> Json:
        history = self.sampler.since(0) if self.sampler is not None and "samples" in self.subject.show else []
        ghosts = [stream.ghost for stream in self.scene.streams if stream.ghost is not None]
        return {
            "now": self._seen.wall(), "started": self._tools.started, "model": model_facts(self._seen, self.model),
            "streams": [stream.id for stream in self.scene.streams] or list(self.subject.streams),
            "target": self._lens.target, "step": self.subject.step,
            "ghost": {"version": ghosts[0].version} if ghosts else None,
            "history": [self._own(sample) for sample in history],
        }  # fmt: skip

    def _opening(self) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
        recent = [shown_event(each) for each in self._seen.events.recent(self.model.key, REMEMBERED)]
        first: list[tuple[str, Any]] = [("hello", self._hello()), ("events", {"events": recent})]
        return first, [("gradient", self._gradient)] if self._gradient else []


def latest(model: ServedModel) -> str:
    """Return the stream in memory that was used last; "" without one."""
    rows = model.table.rows()
    return model.table.ids[int(rows[model.table.touched[rows].argmax()])] if len(rows) else ""


def _send(viewers: Iterable[Viewer], messages: list[bytes]) -> None:
    for viewer in viewers:
        for message in messages:
            viewer.put(message)
