"""Events of models, delivered to watchers. A watcher that does not read loses its oldest events."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field

from service.common.names import ModelKey

CREATED, PUBLISHED, VETOED, ROLLED_BACK, PAUSED, RESUMED, SKIPPED, ANCHORED, IMPORTED, DELETED, DRIFTED = range(1, 12)
CHANGED = 12
KINDS = (
    "created", "published", "vetoed", "rolled back", "paused", "resumed", "skipped", "anchored", "imported", "deleted",
    "drifted", "changed",
)  # fmt: skip
QUEUE = 1024  # events that a watcher may leave unread
REMEMBERED = 128  # last events kept of each model


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a model.

    kind: numbered as ModelEvent.Kind on the wire. offset: entries of the model's journal before it.
    time: seconds since 1970. numbers: further values by name.
    """

    key: ModelKey
    kind: int
    offset: int
    version: int
    reason: str
    time: float
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        kind = KINDS[self.kind - 1] if 1 <= self.kind <= len(KINDS) else self.kind
        return f"Event({self.key.tenant}/{self.key.name} {kind}, version={self.version}, reason={self.reason!r})"


class Events:
    """Delivers events to open watches, and keeps the last ones of each model."""

    def __init__(self) -> None:
        self._watchers: dict[ModelKey, set[asyncio.Queue[Event | None]]] = {}  # a name "": all of the tenant's models
        self._recent: dict[ModelKey, deque[Event]] = {}
        self.listeners: list[Callable[[Event], None]] = []  # called with each event; must not raise

    def emit(self, event: Event) -> None:
        """Deliver to matching watchers; a full queue drops its oldest event. DELETED forgets the model's events."""
        if event.kind == DELETED:
            self._recent.pop(event.key, None)
        else:
            self._recent.setdefault(event.key, deque(maxlen=REMEMBERED)).append(event)
        for listener in self.listeners:
            listener(event)
        for asked in (event.key, ModelKey(event.key.tenant, "")):
            for queue in self._watchers.get(asked, ()):
                _put(queue, event)

    def recent(self, key: ModelKey, n: int) -> list[Event]:
        """Return the last `n` kept events of a model, oldest first; an empty name selects all the tenant's models."""
        if key.name:
            rings = [self._recent[key]] if key in self._recent else []
        else:
            rings = [ring for other, ring in self._recent.items() if other.tenant == key.tenant]
        return sorted((event for ring in rings for event in ring), key=lambda event: event.time)[-n:] if n else []

    async def watch(self, key: ModelKey, recent: int = 0) -> AsyncGenerator[Event, None]:
        """Yield the last `recent` kept events and then new ones, as `recent` selects them, until the server leaves."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE)
        self._watchers.setdefault(key, set()).add(queue)
        try:
            for past in self.recent(key, recent):
                yield past
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._watchers[key].discard(queue)
            if not self._watchers[key]:
                del self._watchers[key]

    def close(self) -> None:
        """End every watch after the events already queued."""
        for queue in (queue for queues in self._watchers.values() for queue in queues):
            _put(queue, None)


def _put(queue: asyncio.Queue[Event | None], event: Event | None) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(event)
