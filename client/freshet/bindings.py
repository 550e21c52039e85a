"""The streams of a Mux by handle: the call that serves them, whether they are bound in it, and their next ticks.

A Mux has a call to each node that serves some of its streams; here a call is a number. No calls; see leg.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from freshet.arguments import invalid
from freshet.errors import FreshetError
from freshet.v1 import streams_pb2 as pb

UInts = npt.NDArray[np.uint64]

BIND_AT_ONCE = 10_000
BIND_BYTES = 1 << 19  # of ids in a message: half of a server's default limit


ADRIFT = -1  # in place of a call: no stream has this handle, or its stream waits before it is bound anywhere


class Bindings:
    """Handles of streams. A handle belongs to one stream until the server refuses it or takes it away."""

    def __init__(self) -> None:
        self.handle: dict[str, int] = {}
        self.next: UInts = np.zeros(0, np.uint64)  # by handle: seq of its next tick; 0: never bound
        self.servers: UInts = np.zeros(0, np.uint64)  # by handle: seq at which the server continues in its call
        self.leg: npt.NDArray[np.int32] = np.zeros(0, np.int32)  # by handle: its call, or ADRIFT
        self.unbound: list[set[int]] = []  # by call: its handles that are not bound in it
        self.refused: dict[str, FreshetError] = {}  # why a stream lost its handle
        self.lost: dict[str, str] = {}  # lost states not yet reported, with the cause
        self.static: dict[str, dict[str, float]] = {}  # static inputs by stream, sent with each binding
        self.adrift: set[int] = set()  # handles of streams that wait before they are bound anywhere
        self._unasked: list[dict[str, None]] = []  # by call: streams whose binding was not requested in it
        self._count: list[int] = []  # by call: number of its handles
        self._free_legs: list[int] = []
        self._reported: set[int] = set()  # handles whose loss is known, without a tick since
        self._ids: dict[int, str] = {}  # the inverse of `handle`
        self._used = 0
        self._free: list[int] = []  # unused handles

    @property
    def size(self) -> int:
        """Number of entries in use in the columns by handle."""
        return self._used

    def id(self, handle: int) -> str:
        """Return the stream of a handle."""
        return self._ids[handle]

    # --- calls

    def add_leg(self) -> int:
        """Return the number of a new call, without streams."""
        if self._free_legs:
            return self._free_legs.pop()
        self.unbound.append(set())
        self._unasked.append({})
        self._count.append(0)
        return len(self._count) - 1

    def drop_leg(self, leg: int) -> None:
        """Release the number of a call that has ended, without streams: a later one may have it."""
        self._free_legs.append(leg)

    def streams_of(self, leg: int) -> int:
        """Return the number of streams of a call."""
        return self._count[leg]

    def handles_of(self, leg: int) -> list[int]:
        """Return the handles of a call."""
        return np.flatnonzero(self.leg[: self._used] == leg).tolist()

    def legs_of(self, ids: Iterable[str], new: int) -> set[int]:
        """Return the calls of these streams, ADRIFT among them. new: the call that new streams will have."""
        return {int(self.leg[handle]) if (handle := self.handle.get(id)) is not None else new for id in ids}

    def assign(self, handle: int, leg: int) -> None:
        """Give a stream to another call, in which it is not bound; ADRIFT: to none."""
        self._leave(handle)
        self.leg[handle] = leg
        if leg == ADRIFT:
            self.adrift.add(handle)
        else:
            self._count[leg] += 1
            self.unbound[leg].add(handle)
            self._unasked[leg][self._ids[handle]] = None

    def _leave(self, handle: int) -> None:
        self.adrift.discard(handle)
        if (leg := int(self.leg[handle])) != ADRIFT:
            self._count[leg] -= 1
            self.unbound[leg].discard(handle)
            self._unasked[leg].pop(self._ids[handle], None)

    def want(self, ids: Sequence[str], leg: int) -> None:
        """Request these streams, new ones in this call; a stream refused before is tried again."""
        new = []
        for id in dict.fromkeys(ids):
            self.refused.pop(id, None)
            if id not in self.handle:
                self.handle[id] = handle = self._free.pop() if self._free else self._used
                self._ids[handle] = id
                self._used = max(self._used, handle + 1)
                new.append(handle)
        if self._used > len(self.next):
            size = max(self._used, 2 * len(self.next))
            self.next, self.servers = _longer(self.next, size), _longer(self.servers, size)
            self.leg = _longer(self.leg, size, ADRIFT)
        for handle in new:
            self.assign(handle, leg)

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
        """Whether each of these streams is bound in its call, or refused."""
        waiting = [handles for handles in (*self.unbound, self.adrift) if handles]
        mine = [handle for id in ids if (handle := self.handle.get(id)) is not None] if waiting else []
        return all(handles.isdisjoint(mine) for handles in waiting)

    def start_call(self, leg: int) -> None:
        """Start a new call: nothing is bound in it."""
        handles = self.handles_of(leg)
        self.unbound[leg], self._unasked[leg] = set(handles), {self._ids[handle]: None for handle in handles}

    def unasked(self, leg: int) -> int:
        """Return the number of streams that `ask` has still to return."""
        return len(self._unasked[leg])

    def ask(self, leg: int) -> list[pb.Bind]:
        """Return the next streams to bind, as many as fit into one message, and count them as requested."""
        size, asked = 0, list[str]()
        for id in islice(self._unasked[leg], BIND_AT_ONCE):
            size += len(id.encode()) + 16 + 32 * len(self.static.get(id, ()))
            if asked and size > BIND_BYTES:
                break
            asked.append(id)
        for id in asked:
            del self._unasked[leg][id]
        return [pb.Bind(handle=self.handle[id], stream=id, static=self.static.get(id)) for id in asked]

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
        self.unbound[self.leg[handle]].discard(handle)
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
        self._leave(handle)
        self.leg[handle] = ADRIFT
        id = self._ids.pop(handle)
        del self.handle[id]
        self.refused[id] = error
        self.static.pop(id, None)
        if not self.next[handle]:
            self._free.append(handle)

    def __contains__(self, handle: int) -> bool:
        return handle in self._ids


def _longer(column: Any, size: int, filler: int = 0) -> Any:
    out = np.full(size, filler, column.dtype)
    out[: len(column)] = column
    return out
