"""Send one trainer process durable chunks of its models, in fair order, slightly ahead of what it has learned.

Within a model the order is the journal's: weights depend on nothing else. Between models it is decided here, chunk by
chunk, by the work that each has used (`fair`) and its tenant's quota. The process learns chunks in the order in which
they arrive, so few may be in its pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from service.access.tenants import Tenants
from service.journal.records import chunk_head, decode_chunk
from service.journal.segments import FRAME
from service.journal.writer import Journal
from service.learning.fair import Fair, Pace
from service.learning.queues import Queues, Waiting
from service.trainer.messages import LearnChunk, Message

# Work sent and not reported as learned yet: enough to keep the trainer busy while serving is. A model with little to
# learn waits for this much work, and for one chunk.
WINDOW_S = 0.05
IN_FLIGHT_BYTES = 4 << 20
READ_BYTES = 1 << 20  # of the journal at once; then chunks are sent
MOST_PACE_S = 0.05  # a commit waits for others at most this long, however long verdicts wait
WORK_S = 0.005  # work that does not wait: the trainer is not to idle


class Pipe(Protocol):
    """The trainer's standard input."""

    def write(self, *messages: Message) -> None:
        """Send messages without waiting."""

    async def drain(self) -> None:
        """Wait until the process has read nearly all of it. Raises ConnectionError."""


class InFlight(NamedTuple):
    """A chunk that was sent and not reported as learned. seconds: charged for it in advance."""

    chunk: Waiting
    tenant: str
    seconds: float


class Feed:
    """The chunks of one process between the journal and its pipe. For the event loop only."""

    def __init__(
        self, journal: Journal, tenant_of: Callable[[int], str | None], tenants: Tenants, clock: Callable[[], float]
    ) -> None:
        """tenant_of: the tenant of a model that this process learns; None for all other models."""
        self._journal, self._tenant_of, self._tenants, self._clock = journal, tenant_of, tenants, clock
        self.queues = Queues(lambda model: tenant_of(model) is not None)
        self.fair = Fair()
        self.in_flight: deque[InFlight] = deque()
        self.more = asyncio.Event()  # set when something may be sent that could not be before
        self.sent = asyncio.Event()  # set when chunks were sent, or the process has ended
        self.learned_chunks = 0  # since this server started
        self.pace_s = 0.0  # shortest time between two looks at commits, unless they are WORK_S of work
        self._looked_at, self._fresh_s = -MOST_PACE_S, 0.0  # clock seconds; seconds of work in `_fresh`
        self._later: asyncio.TimerHandle | None = None  # the next look
        self._looks = False  # until all that is durable is queued
        self._sent_to = self._apart_to = 0  # positions: of the chunks sent, and those to send one by one
        self._fresh: list[tuple[int, bytes]] = []  # the newest frames, which need not be read
        self._paces: dict[int, Pace] = {}
        self._offsets: dict[int, int] = {}  # by model: entries learned

    def restart(self, position: int, offsets: Mapping[int, int]) -> None:
        """Send from `position` on: the process contains `offsets` entries of each model.

        Chunks that a former process may have died of are sent one by one: the report of one of several comes with the
        last, and a death must be put down to the right one.
        """
        self._apart_to = self._sent_to
        self.queues.restart(position, offsets)
        self.fair.clear()
        self.in_flight.clear()
        self._offsets = dict(offsets)
        self.hurry()

    def learned(self, position: int, seconds: float = 0.0, offset: int = 0) -> list[Waiting]:
        """Note that the process has learned the chunks up to `position`; return them: all are of one model.

        seconds: that they took. offset: entries of their model learned by now; 0 if they were not learned. Returns none
        for a report that does not follow a chunk.
        """
        count = next((n for n, sent in enumerate(self.in_flight, 1) if sent.chunk.end == position), 0)
        if not count:
            return []
        done = [self.in_flight.popleft() for _ in range(count)]
        chunks, tenant, model = [sent.chunk for sent in done], done[-1].tenant, done[-1].chunk.model
        self.learned_chunks += count
        if offset:
            entries = offset - self._offsets.get(model, 0)
            self._offsets[model] = offset
            size = sum(len(chunk.payload) for chunk in chunks)
            self._paces.setdefault(model, Pace()).took(seconds, size, max(0, entries))
        self._used(tenant, model, seconds, seconds - sum(sent.seconds for sent in done))
        self.more.set()
        return chunks

    def charge(self, model: int, seconds: float) -> None:
        """Charge a model with the seconds that a verdict on it took."""
        tenant = self._tenant_of(model)
        if tenant is not None:
            self._used(tenant, model, seconds, seconds)

    def seconds_of(self, model: int, entries: int) -> float:
        """Return the seconds that this many entries of the model are expected to take."""
        return self._paces.get(model, Pace()).of_entries(entries)

    def removed(self, model: int) -> None:
        """Forget a deleted model."""
        self.queues.remove(model)
        self.fair.forget(model)
        self._paces.pop(model, None)
        self._offsets.pop(model, None)

    def committed(self, frames: Sequence[tuple[int, bytes]]) -> None:
        """Note a commit. frames: as the journal would return them; without any, and beyond READ_BYTES, it is read.

        It is sent at once, or `pace_s` after the commits that were sent last, if it is little work.
        """
        self._fresh.extend(frames)
        if not frames or self._fresh[-1][0] - self._fresh[0][0] > READ_BYTES:
            self._fresh = []
        for _, payload in frames:
            model, _ = chunk_head(payload)
            if self._tenant_of(model) is not None:
                self._fresh_s += self._paces.get(model, Pace()).of_bytes(len(payload))
        wait = self._looked_at + min(self.pace_s, MOST_PACE_S) - self._clock()
        if wait <= 0 or not self._fresh or self._fresh_s >= WORK_S:
            self.hurry()
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(wait, self.hurry)

    def hurry(self) -> None:
        """Send what is durable as soon as it may be sent."""
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._looked_at, self._fresh_s, self._looks = self._clock(), 0.0, True
        self.more.set()

    async def run(self, pipe: Pipe) -> None:
        """Read and send until cancelled, or until the pipe breaks. Raises JournalDamaged, CheckpointLost."""
        while True:
            self.more.clear()
            if self._send(pipe):
                self.sent.set()
                try:
                    await pipe.drain()
                except ConnectionError:
                    return  # reading its output then ends too
            if not await self._read():
                await self._until_more()

    def _send(self, pipe: Pipe) -> int:
        """Send the chunks that may be sent, in fair order; return their number."""
        messages: list[Message] = []
        while self._has_room() and (turn := self.fair.next(self._may)):
            tenant, model = turn
            chunk = self.queues.pop(model)
            if not self.queues.has(model):
                self.fair.rest(tenant, model)
                if not tenant:  # its end was sent
                    self.fair.forget(model)
            seconds = self._paces.get(model, Pace()).of_bytes(len(chunk.payload))
            self.fair.charge(tenant, model, seconds)
            self.in_flight.append(InFlight(chunk, tenant, seconds))
            self._sent_to = max(self._sent_to, chunk.end)
            messages.append(LearnChunk(chunk.end, self.queues.resume, self._has_more(chunk), chunk.payload))
        if messages:
            pipe.write(*messages)
        return len(messages)

    def _has_room(self) -> bool:
        if self.in_flight and self.in_flight[-1].chunk.end <= self._apart_to:
            return False
        seconds = sum(sent.seconds for sent in self.in_flight)
        size = sum(len(sent.chunk.payload) for sent in self.in_flight)
        return not self.in_flight or (seconds < WINDOW_S and size < IN_FLIGHT_BYTES)

    def _may(self, tenant: str) -> bool:
        return not tenant or not self._tenants.of(tenant).learning_wait(self._clock())

    def _has_more(self, chunk: Waiting) -> bool:
        """Whether later chunks of the model are durable."""
        model, durable = chunk.model, self._journal.durable_position
        if self.queues.sent_to(model) < self.queues.scanned:
            return True
        unseen = self.queues.scanned < durable
        return unseen and self._journal.durable_offset(model) > decode_chunk(chunk.payload).end

    async def _read(self) -> bool:
        """Read a piece of the journal if there is something to read; return whether there was.

        In a thread: after a restart, finding the place may need a scan of a whole segment. The newest commits are here
        already.
        """
        scanned, reread = self.queues.scanned, self.queues.reread_at()
        if self._looks and scanned < self._journal.durable_position:
            frames, self._fresh = self._fresh, []
            if not frames or frames[0][0] - FRAME.size - len(frames[0][1]) != scanned:
                frames = await asyncio.to_thread(self._journal.read, scanned, READ_BYTES)
            self._wait(self.queues.scan(frames))
        self._looks = self._looks and self.queues.scanned < self._journal.durable_position
        if reread is not None:
            frames = await asyncio.to_thread(self._journal.read, reread, READ_BYTES)
            self._wait(self.queues.reread(frames))
        return reread is not None or scanned < self.queues.scanned

    def _wait(self, models: set[int]) -> None:
        for model in models:
            if self.queues.has(model):
                self.fair.wait(self._tenant_of(model) or "", model)

    async def _until_more(self) -> None:
        """Wait until something may be sent or read."""
        now = self._clock()
        held = [self._tenants.of(name).learning_wait(now) for name in self.fair.waiting() if name]
        wait = min((seconds for seconds in held if seconds), default=None) if self._has_room() else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self.more.wait()

    def _used(self, tenant: str, model: int, seconds: float, beyond: float) -> None:
        """Note seconds of learning used, of which `beyond` are not charged yet."""
        self.fair.charge(tenant, model, beyond)
        if tenant:
            self._tenants.of(tenant).learned(self._clock(), seconds)
