"""Sequences that are open: the streams that requests have opened here, and the order of requests of each.

A sequence is known by model and id, not by connection. A stream that another call opens meanwhile is lost to it, as
between two calls of `Streams.Open`; the next request opens it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.common.errors import Unavailable
from service.common.limits import MAX_SEQUENCES
from service.edge.oip.wording import worded
from service.edge.parts import Parts
from service.streams.served import ServedModel
from service.streams.session import Session
from service.streams.table import ABSENT

Array = NDArray[np.float32]


class Kept(NamedTuple):
    """An open sequence. static: [S], sent with its first request."""

    session: Session
    epoch: int
    static: Array


class OpenSequences:
    """The sequences of one model that requests have opened. All methods are synchronous, on the event loop.

    The model keeps this object, as an owner of its streams, for as long as it lives.
    """

    def __init__(self, model: ServedModel, leaving: Callable[[], None], most: int = MAX_SEQUENCES) -> None:
        """leaving: called when streams have progressed or are lost, and when the shard leaves."""
        self._model, self._leaving, self._most = model, leaving, most
        self._owner = model.owners.add(self._woken, lasting=True)
        self._open: dict[str, Kept] = {}  # by id, the longest unused first

    def _woken(self) -> None:
        self._leaving()

    def find(self, id: str) -> Kept | None:
        """Return an open sequence that is still ours and in memory."""
        kept, table = self._open.get(id), self._model.table
        row = table.by_id.get(id, ABSENT)
        if kept is None or row == ABSENT:
            return None
        if int(table.epoch[row]) != kept.epoch:
            del self._open[id]
            return None
        if kept.session.row != row:  # it was out of memory meanwhile
            kept = kept._replace(session=Session(self._model, row))
        table.owner[row] = self._owner  # a stream read from disk has no owner yet
        self.keep(id, kept)
        return kept

    def open(self, parts: Parts, id: str, static: Array) -> Kept:
        """Open a stream, creating it if it is new. Raises what `Opening.open` raises."""
        session, _ = parts.opening.open(self._model, id, self._owner, pinned=False)
        kept = Kept(session, session.epoch, static)
        self.keep(id, kept)
        if len(self._open) > self._most:
            self.close(parts, next(iter(self._open)))
        return kept

    def keep(self, id: str, kept: Kept) -> None:
        """Note that a sequence is open, and used last."""
        self._open.pop(id, None)
        self._open[id] = kept

    def close(self, parts: Parts, id: str) -> None:
        """Close a sequence: its stream has no owner then. It stays, and a later request may resume it."""
        kept = self.find(id)
        self._open.pop(id, None)
        if kept is not None:
            self._model.table.owner[kept.session.row] = 0
            parts.catalog.report_streams(self._model)


class Order:
    """Runs blocks of the same name one after another, in the order in which they were entered."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, _Queue] = {}  # of names that blocks want

    def turn(self, name: Hashable, timeout_s: float) -> Turn:
        """Return a block: `async with` waits for those of the name that were entered before.

        It raises Unavailable after timeout_s seconds; 0: it waits without limit.
        """
        return Turn(self._locks, name, timeout_s)


class _Queue:
    """The blocks of one name. users: how many have not left."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock, self.users = asyncio.Lock(), 0


class Turn:
    """One block of an `Order`. A class, because a generator would cost several times as much per request."""

    __slots__ = ("_name", "_queue", "_queues", "_timeout_s")

    def __init__(self, queues: dict[Hashable, _Queue], name: Hashable, timeout_s: float) -> None:
        self._queues, self._name, self._timeout_s = queues, name, timeout_s

    async def __aenter__(self) -> None:
        queue = self._queues.get(self._name)
        if queue is None:
            queue = self._queues[self._name] = _Queue()
        self._queue = queue
        queue.users += 1
        try:
            await (self._in_time() if self._timeout_s else queue.lock.acquire())
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *error: object) -> None:
        self._queue.lock.release()
        self._leave()

    async def _in_time(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._queue.lock.acquire()
        except TimeoutError:
            remedy = "an earlier request of the same sequence was not answered in that time: try again"
            error = Unavailable("timeout", f"{self._timeout_s:g} s", remedy, retry_s=0.0)
            raise worded(error, "Request timeout expired") from None

    def _leave(self) -> None:
        self._queue.users -= 1
        if not self._queue.users:
            del self._queues[self._name]
