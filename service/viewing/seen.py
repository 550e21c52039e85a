"""What is looked at, and who looks: the components of one shard, a subject, a viewer and its bounded queue."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from service.common.errors import Exhausted
from service.journal.writer import Journal
from service.learning.pool import Trainers
from service.observe.events import Events
from service.observe.metrics import Metrics
from service.serving.admission import Admission
from service.serving.catalog import Catalog
from service.serving.loading import Loader
from service.storage.versions import Versions
from service.streams.residency import Residency
from service.viewing.encoding import event

MAX_VIEWERS = 32  # open at the same time, of one process
VIEWER_QUEUE = 32  # events that a viewer may leave unread; beyond, the oldest are dropped
MAX_STREAMS = 8  # of one subject
MAX_TICKS = 512  # of one block
SHOW = frozenset({"ticks", "state", "gradient", "scores", "samples"})
RETRY_S = 5.0  # after which a refused viewer may find a place


@dataclass(frozen=True, slots=True)
class Seen:
    """The components of one shard that a look reads. The composition root cuts it; `Parts.seen` has it."""

    catalog: Catalog
    admission: Admission  # says whether the shard leaves
    residency: Residency
    loader: Loader
    versions: Versions
    trainers: Trainers
    journal: Journal
    metrics: Metrics
    events: Events
    clock: Callable[[], float]  # monotonic seconds
    wall: Callable[[], float]  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Subject:
    """What a viewer asks to see of a model. `Viewing.watch` refuses wrong values.

    streams: ids; empty: the one that ticked last. target: a name; "": the first one. ghost: "open", the version that
    serves when the view opens; the number of a version; or "none".
    """

    streams: tuple[str, ...] = ()
    target: str = ""
    step: int = 1
    ghost: str = "open"
    show: frozenset[str] = field(default=SHOW)


class Ended(Exception):
    """The view has ended, as `reason` says in a sentence for people; the viewer's last messages were taken."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def too_many_viewers() -> Exhausted:
    """Return the error of a viewer beyond MAX_VIEWERS."""
    return Exhausted("viewers", MAX_VIEWERS, "close another page of this server, or try again later", retry_s=RETRY_S)


class Viewer:
    """One who watches: a bounded queue of encoded events, each shared with all others of its channel."""

    def __init__(self) -> None:
        self._queue: deque[bytes] = deque()
        self._more = asyncio.Event()
        self._lost = 0  # dropped since the last `dropped`
        self._ended = ""
        self.behind = False  # it has lost events and reads again: it needs whole blocks

    @property
    def waiting(self) -> int:
        """How many events wait to be taken."""
        return len(self._queue)

    def put(self, message: bytes) -> None:
        """Queue an event; a full queue drops its oldest."""
        if len(self._queue) >= VIEWER_QUEUE:
            self._queue.popleft()
            self._lost += 1
        self._queue.append(message)
        self._more.set()

    def end(self, reason: str) -> None:
        """End the view after what is queued, with an event `bye`."""
        if not self._ended:
            self.put(event("bye", {"reason": reason}))
            self._ended = reason

    async def next(self, wait_s: float | None = None) -> bytes:
        """Return every event that waits, whole and joined: a write for each would cost more than the rest. Waits for
        one, at most `wait_s` seconds; then b"".

        A viewer that has lost its oldest events gets an event `dropped` first, and whole blocks soon after. Raises
        Ended once the model is deleted or the server leaves, after the events that are queued, the last of them `bye`.
        """
        if not self._queue and not self._ended:
            self._more.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._more.wait()
        if self._ended and not self._queue:
            raise Ended(self._ended)
        events = list(self._queue)
        self._queue.clear()
        if self._lost:
            events.insert(0, event("dropped", {"count": self._lost}))
            self._lost, self.behind = 0, True
        return b"".join(events)
