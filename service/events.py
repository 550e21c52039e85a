"""What happens to models, told to whoever watches. Bounded: a watcher that does not read loses the oldest events."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field

CREATED, PUBLISHED, VETOED, ROLLED_BACK, PAUSED, RESUMED, SKIPPED, ANCHORED, IMPORTED, DELETED, DRIFTED = range(1, 12)
QUEUE = 1024
REMEMBERED = 128  # events of each model


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a model; `kind` is numbered as on the wire, `time` in seconds since 1970."""

    model: str
    kind: int
    offset: int
    version: int
    reason: str
    time: float
    numbers: Mapping[str, float] = field(default_factory=dict)


class Events:
    """Passes events on to every open watch, and remembers the last ones of each model."""

    def __init__(self) -> None:
        self._watchers: set[asyncio.Queue[Event | None]] = set()
        self._recent: dict[str, deque[Event]] = {}

    def emit(self, event: Event) -> None:
        """Tell every watcher; a full queue loses its oldest event. A model that is deleted is forgotten."""
        if event.kind == DELETED:
            self._recent.pop(event.model, None)
        else:
            self._recent.setdefault(event.model, deque(maxlen=REMEMBERED)).append(event)
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    def recent(self, model: str, n: int) -> list[Event]:
        """The last `n` events that are remembered of one model, or of all for an empty name, oldest first."""
        rings = self._recent.values() if not model else [self._recent.get(model, ())]
        return sorted((event for ring in rings for event in ring), key=lambda event: event.time)[-n:] if n else []

    async def watch(self, model: str, recent: int = 0) -> AsyncGenerator[Event, None]:
        """The `recent` events and those from now on of one model, or of all for an empty name; ends when the service
        does."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE)
        self._watchers.add(queue)
        try:
            for past in self.recent(model, recent):
                yield past
            while (event := await queue.get()) is not None:
                if not model or event.model == model:
                    yield event
        finally:
            self._watchers.discard(queue)

    def close(self) -> None:
        """End every watch."""
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(None)
