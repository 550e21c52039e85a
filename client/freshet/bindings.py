"""The streams of a Mux by handle: which are bound in the call, and how far each is. No calls; see mux.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from freshet.errors import FreshetError
from freshet.v1 import streams_pb2 as pb

UInts = npt.NDArray[np.uint64]

BIND_AT_ONCE = 10_000
BIND_BYTES = 1 << 19  # of ids in a message: half of what a server takes by default


class Bindings:
    """Handles of streams. A handle belongs to one stream as long as the server has not refused or taken it away."""

    def __init__(self) -> None:
        self.handle: dict[str, int] = {}
        self.next: UInts = np.zeros(0, np.uint64)  # by handle: the seq of its next tick; 0: it was never bound
        self.servers: UInts = np.zeros(0, np.uint64)  # by handle: the seq at which the server went on in this call
        self.unbound: set[int] = set()  # handles that the server has not bound in this call
        self.refused: dict[str, FreshetError] = {}  # why a stream has no handle any more
        self.lost: dict[str, str] = {}  # of which states the loss was not raised yet, and what the server has
        self._unasked: list[str] = []  # streams that it was not asked to bind in this call
        self._reported: set[int] = set()  # handles whose state is lost by what was said once, without a tick since
        self._ids: dict[int, str] = {}  # `handle`, the other way
        self._used = 0
        self._free: list[int] = []  # handles that were never bound

    @property
    def size(self) -> int:
        """Columns by handle have at least so many entries in use."""
        return self._used

    @property
    def unasked(self) -> bool:
        """Whether `ask` has something."""
        return bool(self._unasked)

    def want(self, ids: Sequence[str]) -> None:
        """These streams are to be bound; what was refused before is tried again."""
        for id in dict.fromkeys(ids):
            self.refused.pop(id, None)
            if id not in self.handle:
                self.handle[id] = handle = self._free.pop() if self._free else self._used
                self._ids[handle] = id
                self._used = max(self._used, handle + 1)
                self.unbound.add(handle)
                self._unasked.append(id)
        if self._used > len(self.next):
            size = max(self._used, 2 * len(self.next))
            self.next, self.servers = _longer(self.next, size), _longer(self.servers, size)

    def bound_or_refused(self, ids: Sequence[str]) -> bool:
        """Whether each of these is bound in this call, or refused."""
        return not self.unbound or self.unbound.isdisjoint(self.handle.get(id, -1) for id in ids)

    def start_call(self) -> None:
        """Another call: nothing is bound in it."""
        self.unbound, self._unasked = set(self.handle.values()), list(self.handle)

    def ask(self) -> list[pb.Bind]:
        """The next streams to bind, as many as go into one message; counted as asked for."""
        size = count = 0
        for id in self._unasked[:BIND_AT_ONCE]:
            size += len(id.encode()) + 16
            if count and size > BIND_BYTES:
                break
            count += 1
        ids, self._unasked = self._unasked[:count], self._unasked[count:]
        return [pb.Bind(handle=self.handle[id], stream=id) for id in ids if id in self.handle]

    def receive(self, bound: pb.Bound, durable: int) -> str | None:
        """The server has bound a handle whose ticks up to `durable` were on disk. Returns what is wrong where the state
        that it goes on from is not this stream's: it is this handle's state from here on."""
        handle, lost = bound.handle, None
        if bound.next_seq <= durable:
            lost = f"the server asks for tick {bound.next_seq}, ticks up to {durable} were on disk and are not kept"
        elif bound.state_origin == pb.Welcome.LOST and handle not in self._reported:
            lost = "the server begins again from a fresh state"
        self.unbound.discard(handle)
        self.servers[handle] = bound.next_seq
        if lost is None:
            self.next[handle] = max(self.next[handle], np.uint64(bound.next_seq))
        else:
            self.next[handle] = bound.next_seq
            self._reported.add(handle)
            self.lost[self._ids[handle]] = lost
        return lost

    def count(self, handle: npt.NDArray[np.uint32], seq: UInts) -> None:
        """These ticks have become part of their streams."""
        np.maximum.at(self.next, handle, seq + np.uint64(1))
        if self._reported:
            self._reported.difference_update(handle.tolist())

    def refuse(self, handle: int, error: FreshetError) -> None:
        """The handle stands for nothing from here on."""
        id = self._ids.pop(handle)
        del self.handle[id]
        self.unbound.discard(handle)
        self.refused[id] = error
        if not self.next[handle]:
            self._free.append(handle)

    def __contains__(self, handle: int) -> bool:
        return handle in self._ids


def _longer(column: Any, size: int) -> Any:
    out = np.zeros(size, column.dtype)
    out[: len(column)] = column
    return out
