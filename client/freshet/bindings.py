"""The streams of a Mux by handle: whether they are bound in the call, and their next ticks. No calls; see mux.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from freshet.arguments import invalid
from freshet.errors import FreshetError
from freshet.v1 import streams_pb2 as pb

UInts = npt.NDArray[np.uint64]

BIND_AT_ONCE = 10_000
BIND_BYTES = 1 << 19  # of ids in a message: half of a server's default limit


class Bindings:
    """Handles of streams. A handle belongs to one stream until the server refuses it or takes it away."""

    def __init__(self) -> None:
        self.handle: dict[str, int] = {}
        self.next: UInts = np.zeros(0, np.uint64)  # by handle: seq of its next tick; 0: never bound
        self.servers: UInts = np.zeros(0, np.uint64)  # by handle: seq at which the server continues in this call
        self.unbound: set[int] = set()  # handles not bound in this call
        self.refused: dict[str, FreshetError] = {}  # why a stream lost its handle
        self.lost: dict[str, str] = {}  # lost states not yet reported, with the cause
        self.static: dict[str, dict[str, float]] = {}  # static inputs by stream, sent with each binding
        self._unasked: list[str] = []  # streams whose binding was not requested in this call
        self._reported: set[int] = set()  # handles whose loss is known, without a tick since
        self._ids: dict[int, str] = {}  # the inverse of `handle`
        self._used = 0
        self._free: list[int] = []  # unused handles

    @property
    def size(self) -> int:
        """Number of entries in use in the columns by handle."""
        return self._used

    @property
    def unasked(self) -> bool:
        """Whether `ask` returns anything."""
        return bool(self._unasked)

    def want(self, ids: Sequence[str]) -> None:
        """Request these streams; a stream refused before is tried again."""
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

    def remember(self, statics: Mapping[str, dict[str, float]]) -> dict[str, FreshetError]:
        """Keep the static inputs of streams for every call; return the errors of streams that have others already."""
        errors: dict[str, FreshetError] = {}
        for id, static in statics.items():
            had = self.static.setdefault(id, static)
            for name in static:
                if static[name] != had.get(name):
                    remedy = f"stream {id!r} has {name} = {had.get(name)}: send that, or nothing"
                    errors[id] = invalid(f"static.{name}", static[name], remedy)
        return errors

    def bound_or_refused(self, ids: Sequence[str]) -> bool:
        """Whether each of these streams is bound in this call, or refused."""
        return not self.unbound or self.unbound.isdisjoint(self.handle.get(id, -1) for id in ids)

    def start_call(self) -> None:
        """Start a new call: nothing is bound in it."""
        self.unbound, self._unasked = set(self.handle.values()), list(self.handle)

    def ask(self) -> list[pb.Bind]:
        """Return the next streams to bind, as many as fit into one message, and count them as requested."""
        size = count = 0
        for id in self._unasked[:BIND_AT_ONCE]:
            size += len(id.encode()) + 16 + 32 * len(self.static.get(id, ()))
            if count and size > BIND_BYTES:
                break
            count += 1
        ids, self._unasked = self._unasked[:count], self._unasked[count:]
        return [
            pb.Bind(handle=self.handle[id], stream=id, static=self.static.get(id)) for id in ids if id in self.handle
        ]

    def receive(self, bound: pb.Bound, durable: int) -> str | None:
        """Record that the server has bound a handle whose ticks up to `durable` were on disk.

        Returns the cause if the server continues from another state than this stream's; the handle then adopts that
        state.
        """
        handle, lost = bound.handle, None
        if bound.next_seq <= durable:
            lost = f"the server asks for tick {bound.next_seq}, but ticks up to {durable} were on disk and are not kept"
        elif bound.state_origin == pb.Welcome.LOST and handle not in self._reported:
            lost = "the server starts over from a fresh state"
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
        """Record that these ticks are part of their streams."""
        np.maximum.at(self.next, handle, seq + np.uint64(1))
        if self._reported:
            self._reported.difference_update(handle.tolist())

    def refuse(self, handle: int, error: FreshetError) -> None:
        """Release a handle."""
        id = self._ids.pop(handle)
        del self.handle[id]
        self.unbound.discard(handle)
        self.refused[id] = error
        self.static.pop(id, None)
        if not self.next[handle]:
            self._free.append(handle)

    def __contains__(self, handle: int) -> bool:
        return handle in self._ids


def _longer(column: Any, size: int) -> Any:
    out = np.zeros(size, column.dtype)
    out[: len(column)] = column
    return out
