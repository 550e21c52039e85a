"""What happens to models, told to whoever watches. Bounded: a watcher that does not read loses the oldest events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

CREATED, PUBLISHED, VETOED, ROLLED_BACK, PAUSED, RESUMED, SKIPPED, ANCHORED = range(1, 9)
QUEUE = 1024


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
    """Passes events on to every open watch."""

    def __init__(self) -> None:
        self._watchers: set[asyncio.Queue[Event | None]] = set()

    def emit(self, event: Event) -> None:
        """Tell every watcher; a full queue loses its oldest event."""
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    async def watch(self, model: str) -> AsyncIterator[Event]:
        """Events from now on of one model, or of all for an empty name; ends when the service does."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE)
        self._watchers.add(queue)
        try:
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
