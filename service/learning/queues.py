"""Durable chunks read ahead for one trainer process: a queue for each model, in bounded memory. Plain data, no I/O.

Where a model's queue is full, its chunks are left in the journal and it is *cut* there: reading goes on for the others,
and what was left is read again once there is room, so that no model waits behind the backlog of another.
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
    """A model's first records are behind the checkpoint's position, and the checkpoint does not hold it."""


class Waiting(NamedTuple):
    """A chunk that was not sent yet. begin, end: positions of its frame."""

    model: int
    begin: int
    end: int
    payload: bytes


@dataclass(slots=True)
class _Queue:
    chunks: deque[Waiting] = field(default_factory=deque)
    size: int = 0  # bytes
    cut: int | None = None  # position from which on its chunks are not in the queue
    next_size: int = 0  # bytes of the chunk there, 0: not known

    def cut_before(self, chunk: Waiting) -> None:
        """Leave this chunk and those behind it in the journal."""
        self.cut, self.next_size = chunk.begin, len(chunk.payload)

    @property
    def begin(self) -> int | None:
        """Position of the first chunk that was not sent."""
        return self.chunks[0].begin if self.chunks else self.cut


class Queues:
    """The queues of the models that `mine` names."""

    def __init__(self, mine: Callable[[int], bool]) -> None:
        self._mine = mine
        self._leaving: set[int] = set()  # models that are gone, of which the process is still to be told
        self.restart(0, {})

    def restart(self, position: int, offsets: Mapping[int, int]) -> None:
        """Begin again: chunks from `position` on are to be sent, but for the first `offsets` entries of a model."""
        self.scanned = position  # up to here, each chunk was looked at
        self._offsets = dict(offsets)
        self._queues: dict[int, _Queue] = {}
        self._size = 0
        self._again: int | None = None  # position of the second reading, while it is under way
        self._again_from = 0
        self._full: set[int] = set()  # models that met no room in it

    def scan(self, frames: Iterable[tuple[int, bytes]]) -> set[int]:
        """Take in the frames from `scanned` on, each with the position behind it; the models that have more to send.

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
        """The position to read a second time from, for models that were cut; None: nothing is to be read again now."""
        if self._again is None:
            hungry = [q.cut for q in self._queues.values() if q.cut is not None and self._is_hungry(q)]
            if not hungry:
                return None
            self._again = self._again_from = min(hungry)
            self._full = set()
        return self._again

    def reread(self, frames: Iterable[tuple[int, bytes]]) -> set[int]:
        """Take in frames of the second reading, from `again_at` on; the models that have more to send."""
        assert self._again is not None
        found = set()
        for end, payload in frames:
            begin = self._again
            if begin >= self.scanned:
                break
            self._again = end
            model, _ = chunk_head(payload)
            queue = self._queues.get(model)
            if queue is None or queue.cut is None or model in self._full or not self._again_from <= queue.cut <= begin:
                continue
            chunk = Waiting(model, begin, end, payload)
            if self._put(queue, chunk):
                queue.cut, queue.next_size = end, 0
                found.add(model)
            else:
                queue.cut_before(chunk)
                self._full.add(model)
        taking = [q for n, q in self._queues.items() if q.cut is not None and n not in self._full and self._takes(q)]
        if self._again >= self.scanned:
            for queue in taking:
                queue.cut = None
            for model in [n for n, q in self._queues.items() if q.begin is None]:
                del self._queues[model]
            self._again = None
        elif not taking:
            self._again = None
        return found

    def _is_hungry(self, queue: _Queue) -> bool:
        limit = self._limit()
        return not queue.chunks or (queue.size <= limit // 2 and queue.size + queue.next_size <= limit)

    def _takes(self, queue: _Queue) -> bool:
        """Whether the second reading meets all that the queue was cut off from."""
        return queue.cut is not None and queue.cut >= self._again_from

    def pop(self, model: int) -> Waiting:
        """The model's next chunk, which is sent now. Raises IndexError where none is here."""
        queue = self._queues[model]
        chunk = queue.chunks.popleft()
        queue.size -= len(chunk.payload)
        self._size -= len(chunk.payload)
        if queue.begin is None:
            del self._queues[model]
        return chunk

    def has(self, model: int) -> bool:
        """Whether a chunk of the model is here to be sent."""
        queue = self._queues.get(model)
        return queue is not None and bool(queue.chunks)

    def sent_to(self, model: int) -> int:
        """The position up to which all chunks of the model were sent."""
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
        """The model is gone: of its chunks only the one that says so is still sent, which is to come."""
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
                raise CheckpointLost(f"it holds nothing of model {model}, whose first records lie before it")
            self._offsets[model] = 0
        return offset >= self._offsets[model]

    def _put(self, queue: _Queue, chunk: Waiting) -> bool:
        """Put the chunk into the queue; whether there is room: for one chunk, always."""
        size = len(chunk.payload)
        if queue.chunks and queue.size + size > self._limit():
            return False
        queue.chunks.append(chunk)
        queue.size += size
        self._size += size
        return True

    def _limit(self) -> int:
        """Bytes that one queue may hold now: less, the less room is left for all."""
        return max(MIN_BYTES, min(MAX_MODEL_BYTES, MAX_BYTES - self._size))
