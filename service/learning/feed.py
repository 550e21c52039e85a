"""What one trainer process is sent: durable chunks of its models, in fair order, little ahead of what it has learned.

The order is kept within each model, which is all that its weights depend on; between models it is decided here, chunk
by chunk, by the work that each has had (`fair`) and by its tenant's quota. The process itself takes in what it is sent,
one after the other, so that what waits in its pipe must be short.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from service.access.tenants import Tenants
from service.journal.records import decode_chunk
from service.journal.writer import Journal
from service.learning.fair import Fair, Pace
from service.learning.queues import Queues, Waiting
from service.trainer.messages import LearnChunk, Message

# Work sent and not yet reported as learned: enough to keep the child busy while serving is; a model with little to
# learn waits behind so much, and behind one chunk.
WINDOW_S = 0.05
IN_FLIGHT_BYTES = 4 << 20
READ_BYTES = 1 << 20  # of the journal, between two looks at what may be sent


class Pipe(Protocol):
    """The process's standard input, as asyncio has it."""

    def write(self, message: Message) -> None:
        """Send a message, without waiting."""

    async def drain(self) -> None:
        """Wait until it has nearly all been taken. Raises ConnectionError."""


class InFlight(NamedTuple):
    """A chunk that was sent and not reported as learned. seconds: that it was charged with."""

    chunk: Waiting
    tenant: str
    seconds: float


class Feed:
    """The chunks of one process between the journal and its pipe. For the event loop alone."""

    def __init__(
        self, journal: Journal, tenant_of: Callable[[int], str | None], tenants: Tenants, clock: Callable[[], float]
    ) -> None:
        """tenant_of: whose a model is that this process learns; None: of no other is anything sent."""
        self._journal, self._tenant_of, self._tenants, self._clock = journal, tenant_of, tenants, clock
        self.queues = Queues(lambda model: tenant_of(model) is not None)
        self.fair = Fair()
        self.in_flight: deque[InFlight] = deque()
        self.more = asyncio.Event()  # something is durable, learned or allowed that was not
        self.sent = asyncio.Event()  # chunks were sent, or will not be
        self.learned_chunks = 0  # since this server started
        self._paces: dict[int, Pace] = {}
        self._offsets: dict[int, int] = {}  # by model: entries learned

    def restart(self, position: int, offsets: Mapping[int, int]) -> None:
        """The process goes on at `position`, and holds so many entries of each model."""
        self.queues.restart(position, offsets)
        self.fair.clear()
        self.in_flight.clear()
        self._offsets = dict(offsets)
        self.more.set()

    def learned(self, position: int, seconds: float = 0.0, offset: int = 0) -> Waiting | None:
        """The process has learned, in so many seconds, the chunk that ends at `position`: its model's entries up to
        `offset`, 0 where it was passed over. Returns it; None for what is no answer to a chunk."""
        if not self.in_flight or self.in_flight[0].chunk.end != position:
            return None
        chunk, tenant, charged = self.in_flight.popleft()
        self.learned_chunks += 1
        if offset:
            entries = offset - self._offsets.get(chunk.model, 0)
            self._offsets[chunk.model] = offset
            self._paces.setdefault(chunk.model, Pace()).took(seconds, len(chunk.payload), max(0, entries))
        self._used(tenant, chunk.model, seconds, seconds - charged)
        self.more.set()
        return chunk

    def charge(self, model: int, seconds: float) -> None:
        """Charge a model with the seconds that a verdict on it took."""
        tenant = self._tenant_of(model)
        if tenant is not None:
            self._used(tenant, model, seconds, seconds)

    def seconds_of(self, model: int, entries: int) -> float:
        """How long so many entries of the model take to learn, as measured lately."""
        return self._paces.get(model, Pace()).of_entries(entries)

    def removed(self, model: int) -> None:
        """The model is gone."""
        self.queues.remove(model)
        self.fair.forget(model)
        self._paces.pop(model, None)
        self._offsets.pop(model, None)

    async def run(self, pipe: Pipe) -> None:
        """Read and send, until cancelled or the pipe breaks. Raises JournalDamaged, CheckpointLost."""
        while True:
            self.more.clear()
            if self._send(pipe):
                self.sent.set()
                try:
                    await pipe.drain()
                except ConnectionError:
                    return  # the reader sees the end
            if not await self._read():
                await self._until_more()

    def _send(self, pipe: Pipe) -> int:
        """Send what may be, in fair order; how many chunks."""
        sent = 0
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
            pipe.write(LearnChunk(chunk.end, self.queues.resume, self._has_more(chunk), chunk.payload))
            sent += 1
        return sent

    def _has_room(self) -> bool:
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
        """Read a piece of the journal, where there is something to read; in a thread: after a restart, a whole segment
        may have to be read to find the place in it. Whether something was read."""
        scanned, again = self.queues.scanned, self.queues.reread_at()
        if scanned < self._journal.durable_position:
            frames = await asyncio.to_thread(self._journal.read, scanned, READ_BYTES)
            self._wait(self.queues.scan(frames))
        if again is not None:
            frames = await asyncio.to_thread(self._journal.read, again, READ_BYTES)
            self._wait(self.queues.reread(frames))
        return again is not None or scanned < self.queues.scanned

    def _wait(self, models: set[int]) -> None:
        for model in models:
            if self.queues.has(model):
                self.fair.wait(self._tenant_of(model) or "", model)

    async def _until_more(self) -> None:
        """Until something may be sent, or read, that could not be."""
        now = self._clock()
        held = [self._tenants.of(name).learning_wait(now) for name in self.fair.waiting() if name]
        wait = min((seconds for seconds in held if seconds), default=None) if self._has_room() else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self.more.wait()

    def _used(self, tenant: str, model: int, seconds: float, beyond: float) -> None:
        """So many seconds were used, of which `beyond` were not charged yet."""
        self.fair.charge(tenant, model, beyond)
        if tenant:
            self._tenants.of(tenant).learned(self._clock(), seconds)
