"""Sequences that are open: the streams that requests have opened here, and the order of requests of each.

A sequence is known by model and id, not by connection. A stream that another call opens meanwhile is lost to it, as
between two calls of `Streams.Open`; the next request opens it again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Hashable
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
        self._owner = model.owners.add(self._woken)
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
        self._locks: dict[Hashable, tuple[asyncio.Lock, list[None]]] = {}  # with as many entries as blocks want it

    @contextlib.asynccontextmanager
    async def turn(self, name: Hashable, timeout_s: float) -> AsyncIterator[None]:
        """Wait for the blocks entered before. Raises Unavailable after timeout_s seconds; 0: waits without limit."""
        lock, users = self._locks.setdefault(name, (asyncio.Lock(), []))
        users.append(None)
        try:
            try:
                if timeout_s:
                    async with asyncio.timeout(timeout_s):
                        await lock.acquire()
                else:
                    await lock.acquire()
            except TimeoutError:
                remedy = "an earlier request of the same sequence was not answered in that time: try again"
                error = Unavailable("timeout", f"{timeout_s:g} s", remedy, retry_s=0.0)
                raise worded(error, "Request timeout expired") from None
            try:
                yield
            finally:
                lock.release()
        finally:
            users.pop()
            if not users:
                del self._locks[name]
