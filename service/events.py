"""What happens to models, told to whoever watches. Bounded: a watcher that does not read loses the oldest events."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field

from service.names import ModelKey

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


def concerns(asked: ModelKey, model: ModelKey) -> bool:
    """Whether a model is among those asked for; an empty name asks for all of the tenant's."""
    return asked.tenant == model.tenant and asked.name in ("", model.name)


class Events:
    """Passes events on to every open watch, and remembers the last ones of each model."""

    def __init__(self) -> None:
        self._watchers: dict[asyncio.Queue[Event | None], ModelKey] = {}
        self._recent: dict[ModelKey, deque[Event]] = {}
        self.listeners: list[Callable[[Event], None]] = []  # called with each event; they must not raise

    def emit(self, event: Event) -> None:
        """Tell every watcher that it concerns, and nobody else loses an event to it: a full queue loses its oldest. A
        model that is deleted is forgotten."""
        if event.kind == DELETED:
            self._recent.pop(event.key, None)
        else:
            self._recent.setdefault(event.key, deque(maxlen=REMEMBERED)).append(event)
        for listener in self.listeners:
            listener(event)
        for queue, asked in self._watchers.items():
            if concerns(asked, event.key):
                _put(queue, event)

    def recent(self, key: ModelKey, n: int) -> list[Event]:
        """The last `n` events that are remembered of a model, of all the tenant's for an empty name, oldest first."""
        rings = [ring for other, ring in self._recent.items() if concerns(key, other)]
        return sorted((event for ring in rings for event in ring), key=lambda event: event.time)[-n:] if n else []

    async def watch(self, key: ModelKey, recent: int = 0) -> AsyncGenerator[Event, None]:
        """The `recent` events and those from now on of a model, or of all the tenant's for an empty name; ends when the
        service does."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE)
        self._watchers[queue] = key
        try:
            for past in self.recent(key, recent):
                yield past
            while (event := await queue.get()) is not None:
                yield event
        finally:
            del self._watchers[queue]

    def close(self) -> None:
        """End every watch."""
        for queue in self._watchers:
            _put(queue, None)


def _put(queue: asyncio.Queue[Event | None], event: Event | None) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(event)
