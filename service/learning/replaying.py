"""List the quarantine, and replay items of it into learning.

Only the trainer reads and writes trainer.db, so it is asked over its pipe, and saves before it answers: listed items
are on disk. An item is replayed by journaling a window of the source "replay", numbered by the item. The learner's fold
removes the item from the quarantine when it reaches that record, and learns it once, even if it is replayed repeatedly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from service.common.errors import Invalid
from service.journal.records import Chunk, Reset, StateDelete, StatePut, Ticks, Window, entries
from service.journal.sources import REPLAY
from service.journal.writer import Journal
from service.learning.intake import Intake
from service.learning.labels import Array
from service.learning.pool import Trainers
from service.streams.residency import Residency
from service.streams.served import ServedModel
from service.trainer.quarantine import NO_STREAM, Item

ASK_S = 20.0  # the question waits for chunks sent before it: at most seconds of learning
MAX_PAGE = 1000
MAX_ID = 2**63 - 1  # of an SQLite integer
MAX_REPLAYED = 256  # items of one request
FLUSH_BYTES = 8 << 20  # of windows, journaled between two flushes
CONTEXT_WINDOWS = 4  # a replayed label gets the ticks of this many windows before it


class Replayer:
    """Lists quarantines, and replays items of them."""

    def __init__(self, intake: Intake, residency: Residency, journal: Journal, trainers: Trainers) -> None:
        self._intake, self._residency, self._journal, self._trainers = intake, residency, journal, trainers

    async def items(self, model: ServedModel, after: int, limit: int) -> list[tuple[Item, str]]:
        """Return items with ids above `after`, oldest first, with the stream ids of labels ("" for others).

        At most `limit`, fewer if they are large. Raises Unavailable, NotFound, Invalid.
        """
        if after > MAX_ID:
            raise Invalid("after", after, "give the last id of the page before")
        items = await self._ask(model, after, min(limit, MAX_PAGE), [])
        labels = [item.stream for item in items if item.stream != NO_STREAM]
        names = await self._residency.names(model, np.array(labels, np.uint32))
        return [(item, names.get(item.stream, "")) for item in items]

    async def replay(self, model: ServedModel, ids: Sequence[int]) -> tuple[list[int], dict[int, str]]:
        """Journal windows that replay these items; return the replayed ids, durable, and why each other one is refused.

        Raises Invalid for too many or impossible ids, Unavailable, NotFound.
        """
        if len(ids) > MAX_REPLAYED:
            raise Invalid("ids", f"{len(ids)} ids", f"send at most {MAX_REPLAYED} in one request")
        wanted = sorted(set(ids))
        if wanted and not 1 <= wanted[0] <= wanted[-1] <= MAX_ID:
            raise Invalid("ids", wanted[-1] or wanted[0], "give ids that the quarantine lists")
        items = await self._ask(model, 0, MAX_REPLAYED, wanted) if wanted else []
        refused = dict.fromkeys(set(wanted) - {i.id for i in items}, "not in the quarantine, or no longer")
        longest = min(CONTEXT_WINDOWS * model.spec.window, self._intake.shape(model).steps)
        journal = self._journal
        with journal.held() as start:
            chunks = (chunk for _, chunk in journal.chunks(start) if chunk.model == model.number)
            found = await asyncio.to_thread(find, chunks, items, longest)
        replayed, size = [], 0
        for item in items:
            window = found.get(item.id)
            if window is None:
                refused[item.id] = gone(item)
            elif model.spec.task == "forecast" and item.stream != NO_STREAM:
                refused[item.id] = (
                    "a value of the stream itself, which has advanced: send it to Training.Learn as a window"
                )
            elif model.paused:
                refused[item.id] = "the model is paused: resume it first"
            else:
                self._intake.replayed(model, window)
                replayed.append(item.id)
                size += window.x.nbytes + 2 * window.y.nbytes
            if size > FLUSH_BYTES:
                await journal.flush()
                size = 0
        await journal.flush()
        return replayed, refused

    async def _ask(self, model: ServedModel, after: int, limit: int, ids: Sequence[int]) -> Sequence[Item]:
        self._intake.check_open(model)
        return await self._trainers.quarantined(model.number, after, limit, tuple(ids), ASK_S)


def gone(item: Item) -> str:
    """Return why an item whose rows are no longer in the journal is refused, with the remedy."""
    if item.stream == NO_STREAM:
        return "the journal no longer holds this window: send it again to Training.Learn"
    return f"the journal no longer holds tick {item.seq} of its stream: send it to Training.Learn as a window"


class Context:
    """Collects the ticks that lead to one label, from the journal's records in order."""

    def __init__(self, item: Item, longest: int) -> None:
        self.item = item
        self._first = max(1, item.seq - longest + 1)
        self._rows: list[Array] = []
        self._next = self._first  # seq of the next tick, if nothing is missing
        self._state: Array | None = None  # before the first tick, if a client put one

    @property
    def complete(self) -> bool:
        """Whether the label's own tick is collected."""
        return self._next > self.item.seq

    def restart(self, last_seq: int | None = None, state: Array | None = None) -> None:
        """Clear the ticks: the stream was reset, or a state was put after tick `last_seq`."""
        if not self.complete:
            self._rows, self._state = [], state if last_seq is not None and last_seq + 1 >= self._first else None
            self._next = self._first if last_seq is None else max(self._first, last_seq + 1)

    def ticks(self, seq: Array, x: Array) -> None:
        """Copy those of these ticks of the stream that lead to the label. seq: (n,), increasing. x: [n, C]."""
        for i in np.flatnonzero((seq >= self._first) & (seq <= self.item.seq)):
            if self.complete:
                return
            if seq[i] != self._next:  # ticks are missing: the stream was reset between
                self._rows, self._state = [], None
            self._rows.append(x[i].copy())
            self._next = int(seq[i]) + 1

    def window(self) -> Window | None:
        """Return a window of the label and the ticks before it; None if its tick was not found."""
        if not self.complete or not self._rows:
            return None
        label = np.frombuffer(self.item.y, np.float32)
        y = np.zeros((len(self._rows), len(label)), np.float32)
        weight = np.zeros_like(y)
        y[-1], weight[-1] = label, 1
        return Window(REPLAY, self.item.id, np.stack(self._rows), y, weight, self._state)


def find(chunks: Iterable[Chunk], items: Sequence[Item], longest: int) -> dict[int, Window]:
    """Return windows that replay items, by id, from the model's chunks in their order.

    A label gets at most `longest` ticks up to its own, since the last reset of its stream. Items that the chunks no
    longer hold are left out.
    """
    windows = {item.offset: item for item in items if item.stream == NO_STREAM}
    contexts: dict[int, list[Context]] = {}
    for item in items:
        if item.stream != NO_STREAM:
            contexts.setdefault(item.stream, []).append(Context(item, longest))
    found: dict[int, Window] = {}
    for offset, record in _entries(chunks):
        if isinstance(record, Window) and offset in windows:
            id = windows[offset].id
            found[id] = Window(REPLAY, id, record.x, record.y, record.weight, record.initial_state)
        elif isinstance(record, Ticks):
            for stream in contexts.keys() & set(record.stream.tolist()):
                at = record.stream == stream
                for context in contexts[stream]:
                    context.ticks(record.seq[at], record.x[at])
        elif isinstance(record, Reset | StateDelete):
            for context in contexts.get(record.stream, ()):
                context.restart()
        elif isinstance(record, StatePut):
            for context in contexts.get(record.stream, ()):
                context.restart(record.last_seq, record.state)
    complete = ((c.item.id, c.window()) for group in contexts.values() for c in group)
    return found | {id: window for id, window in complete if window is not None}


def _entries(chunks: Iterable[Chunk]) -> Iterator[tuple[int, object]]:
    """Yield each record with the offset of its first entry."""
    for chunk in chunks:
        offset = chunk.offset
        for record in chunk.records:
            yield offset, record
            offset += entries(record)
