"""What happens to models, told to whoever watches. Bounded: a watcher that does not read loses the oldest events."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field

from service.common.names import ModelKey

CREATED, PUBLISHED, VETOED, ROLLED_BACK, PAUSED, RESUMED, SKIPPED, ANCHORED, IMPORTED, DELETED, DRIFTED = range(1, 12)
QUEUE = 1024
REMEMBERED = 128  # events of each model


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a model; `kind` is numbered as on the wire, `time` in seconds since 1970."""

    key: ModelKey
    kind: int
    offset: int
    version: int
    reason: str
    time: float
    numbers: Mapping[str, float] = field(default_factory=dict)


class Events:
    """Passes events on to every open watch, and remembers the last ones of each model."""

    def __init__(self) -> None:
        self._watchers: dict[ModelKey, set[asyncio.Queue[Event | None]]] = {}  # by what they ask for
        self._recent: dict[ModelKey, deque[Event]] = {}
        self.listeners: list[Callable[[Event], None]] = []  # called with each event; they must not raise

    def emit(self, event: Event) -> None:
        """Pass it to the watchers of the model, and of all of the tenant's; a full queue loses its oldest. A model that
        is deleted is forgotten."""
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
        """The last `n` events that are remembered of a model, of all the tenant's for an empty name, oldest first."""
        if key.name:
            rings = [self._recent[key]] if key in self._recent else []
        else:
            rings = [ring for other, ring in self._recent.items() if other.tenant == key.tenant]
        return sorted((event for ring in rings for event in ring), key=lambda event: event.time)[-n:] if n else []

    async def watch(self, key: ModelKey, recent: int = 0) -> AsyncGenerator[Event, None]:
        """The `recent` events and those from now on of a model, or of all the tenant's for an empty name; ends when the
        service does."""
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
        """End every watch."""
        for queue in (queue for queues in self._watchers.values() for queue in queues):
            _put(queue, None)


def _put(queue: asyncio.Queue[Event | None], event: Event | None) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(event)
