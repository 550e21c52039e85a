"""Durable chunks read ahead for one trainer process: a queue for each model, in bounded memory. Plain data, no I/O.

If a model's queue is full, it is *cut*: its next chunks stay in the journal, and other models are read on. The
chunks left are read again once there is room, so that no model waits for the backlog of another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from service.journal.records import ModelDelete, chunk_head, decode_chunk

MAX_BYTES = 32 << 20  # of all queues, besides MIN_BYTES for each
MAX_MODEL_BYTES = 1 << 20
MIN_BYTES = 16 << 10


class CheckpointLost(LookupError):
    """A model's first records are before the checkpoint's position, and the checkpoint does not contain it."""


class Waiting(NamedTuple):
    """A chunk that is not sent yet. begin, end: positions of its frame."""

    model: int
    begin: int
    end: int
    payload: bytes


@dataclass(slots=True)
class _Queue:
    chunks: deque[Waiting] = field(default_factory=deque)
    size: int = 0  # bytes
    cut: int | None = None  # chunks from this position on are not in the queue; None: all are
    next_size: int = 0  # bytes of the chunk at `cut`, 0: unknown

    def cut_before(self, chunk: Waiting) -> None:
        """Leave this chunk and later ones in the journal."""
        self.cut, self.next_size = chunk.begin, len(chunk.payload)

    @property
    def begin(self) -> int | None:
        """Position of the first chunk that is not sent."""
        return self.chunks[0].begin if self.chunks else self.cut


class Queues:
    """The queues of one trainer's models, for which `mine` returns True."""

    def __init__(self, mine: Callable[[int], bool]) -> None:
        self._mine = mine
        self._leaving: set[int] = set()  # deleted models whose last chunk is still to be sent
        self.restart(0, {})

    def restart(self, position: int, offsets: Mapping[int, int]) -> None:
        """Start again: send the chunks from `position` on, without the first `offsets` entries of each model."""
        self.scanned = position  # all chunks before it were read once
        self._offsets = dict(offsets)
        self._queues: dict[int, _Queue] = {}
        self._size = 0
        self._reread: int | None = None  # position of the second reading; None: it is not under way
        self._reread_from = 0
        self._full: set[int] = set()  # models whose queue has become full during it

    def scan(self, frames: Iterable[tuple[int, bytes]]) -> set[int]:
        """Queue frames from `scanned` on, each with the position after it; return the models that have more to send.

        Raises CheckpointLost.
        """
        found = set()
        for end, payload in frames:
            begin, self.scanned = self.scanned, end
            model, offset = chunk_head(payload)
            if not self._wanted(model, offset, payload):
                continue
            queue = self._queues.setdefault(model, _Queue())
            chunk = Waiting(model, begin, end, payload)
            if queue.cut is None and not self._put(queue, chunk):
                queue.cut_before(chunk)
            found.add(model)
        return found

    def reread_at(self) -> int | None:
        """Return the position from which to read again, for queues that were cut; None if there is nothing to read."""
        if self._reread is None:
            hungry = [q.cut for q in self._queues.values() if q.cut is not None and self._is_hungry(q)]
            if not hungry:
                return None
            self._reread = self._reread_from = min(hungry)
            self._full = set()
        return self._reread

    def reread(self, frames: Iterable[tuple[int, bytes]]) -> set[int]:
        """Queue frames of the second reading, from `reread_at` on; return the models that have more to send."""
        assert self._reread is not None
        found = set()
        for end, payload in frames:
            begin = self._reread
            if begin >= self.scanned:
                break
            self._reread = end
            model, _ = chunk_head(payload)
            queue = self._queues.get(model)
            if queue is None or queue.cut is None or model in self._full or not self._reread_from <= queue.cut <= begin:
                continue
            chunk = Waiting(model, begin, end, payload)
            if self._put(queue, chunk):
                queue.cut, queue.next_size = end, 0
                found.add(model)
            else:
                queue.cut_before(chunk)
                self._full.add(model)
        taking = [q for n, q in self._queues.items() if q.cut is not None and n not in self._full and self._takes(q)]
        if self._reread >= self.scanned:
            for queue in taking:
                queue.cut = None
            for model in [n for n, q in self._queues.items() if q.begin is None]:
                del self._queues[model]
            self._reread = None
        elif not taking:
            self._reread = None
        return found

    def _is_hungry(self, queue: _Queue) -> bool:
        limit = self._limit()
        return not queue.chunks or (queue.size <= limit // 2 and queue.size + queue.next_size <= limit)

    def _takes(self, queue: _Queue) -> bool:
        """Whether the second reading covers everything from the queue's cut on."""
        return queue.cut is not None and queue.cut >= self._reread_from

    def pop(self, model: int) -> Waiting:
        """Remove and return the model's next chunk. Raises IndexError if there is none."""
        queue = self._queues[model]
        chunk = queue.chunks.popleft()
        queue.size -= len(chunk.payload)
        self._size -= len(chunk.payload)
        if queue.begin is None:
            del self._queues[model]
        return chunk

    def has(self, model: int) -> bool:
        """Whether a chunk of the model is queued."""
        queue = self._queues.get(model)
        return queue is not None and bool(queue.chunks)

    def sent_to(self, model: int) -> int:
        """Return the position up to which all chunks of the model were sent."""
        queue = self._queues.get(model)
        return self.scanned if queue is None or queue.begin is None else queue.begin

    @property
    def resume(self) -> int:
        """The position up to which all chunks of all models were sent."""
        return min((q.begin for q in self._queues.values() if q.begin is not None), default=self.scanned)

    @property
    def size(self) -> int:
        """Bytes in all queues."""
        return self._size

    def remove(self, model: int) -> None:
        """Drop a deleted model's queue; of its chunks only the last, which holds its deletion, is still sent."""
        queue = self._queues.pop(model, None)
        self._size -= queue.size if queue else 0
        self._offsets.pop(model, None)
        self._leaving.add(model)

    def process_started(self) -> None:
        """Forget deleted models: the settings of a new process leave them out."""
        self._leaving.clear()

    def _wanted(self, model: int, offset: int, payload: bytes) -> bool:
        if model in self._leaving:
            last = isinstance(decode_chunk(payload).records[-1], ModelDelete)
            if last:
                self._leaving.discard(model)
            return last
        if not self._mine(model):
            return False
        if model not in self._offsets:
            if offset:
                raise CheckpointLost(f"it does not contain model {model}, whose first records are before its position")
            self._offsets[model] = 0
        return offset >= self._offsets[model]

    def _put(self, queue: _Queue, chunk: Waiting) -> bool:
        """Queue the chunk, and return whether there was room; there always is room for one chunk."""
        size = len(chunk.payload)
        if queue.chunks and queue.size + size > self._limit():
            return False
        queue.chunks.append(chunk)
        queue.size += size
        self._size += size
        return True

    def _limit(self) -> int:
        """Return the bytes that one queue may hold now: the less is left for all queues, the fewer."""
        return max(MIN_BYTES, min(MAX_MODEL_BYTES, MAX_BYTES - self._size))
