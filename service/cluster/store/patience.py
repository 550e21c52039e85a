"""Repeat a call of a store that cannot be reached, with doubling delays, and measure every call."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence, Set
from typing import NamedTuple, TypeVar

from service.cluster.store.seam import Conflict, Extent, Listed, Missing, Store, StoreUnavailable

FIRST_S, LONGEST_S = 0.05, 1.0  # between two tries

T = TypeVar("T")


def delay_s(tries: int) -> float:
    """Return the seconds to wait after failed try number `tries`, from 1: doubling, up to LONGEST_S."""
    return min(LONGEST_S, FIRST_S * 2.0 ** min(tries - 1, 30))


def repeat(
    call: Callable[[], T],
    wait: Callable[[float], bool],
    give_up_s: float = math.inf,
    failed: Callable[[StoreUnavailable], None] = lambda error: None,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Return what `call` returns, called again after every StoreUnavailable; its other errors pass.

    wait: waits this many seconds and returns whether to give up now, as `threading.Event.wait` of an end. give_up_s:
    longest time from the first call to the start of the last. failed: told of every StoreUnavailable. Raises the last.
    """
    end, tries = clock() + give_up_s, 0
    while True:
        try:
            return call()
        except StoreUnavailable as error:
            failed(error)
            tries += 1
            pause_s = delay_s(tries)
            if clock() + pause_s > end or wait(pause_s):
                raise


class Call(NamedTuple):
    """A call that has ended."""

    operation: str  # the name of the method
    seconds: float
    size: int  # bytes of entries, blobs and notes, in either direction
    failed: bool  # False for a Conflict and a Missing, which are answers


class Metered:
    """A store that tells `observe` of each call, in the thread that made it. Owns the store: `close` closes it."""

    def __init__(self, store: Store, observe: Callable[[Call], None]) -> None:
        self.url, self._store, self._observe = store.url, store, observe

    def append(self, shard: int, offset: int, epoch: int, data: bytes) -> None:
        """See `Store.append`."""
        self._told("append", lambda: self._store.append(shard, offset, epoch, data), len(data))

    def claim(self, shard: int, offset: int, epoch: int, data: bytes) -> None:
        """See `Store.claim`."""
        self._told("claim", lambda: self._store.claim(shard, offset, epoch, data), len(data))

    def extents(self, shard: int, start: int) -> list[Extent]:
        """See `Store.extents`."""
        return self._told("extents", lambda: self._store.extents(shard, start))

    def read(self, shard: int, extents: Sequence[Extent]) -> Iterator[bytes]:
        """See `Store.read`. Each entry counts as one call, with the time until it is there."""
        entries = iter(self._store.read(shard, extents))
        for extent in extents:
            yield self._told("read", lambda: next(entries), extent.size)

    def trim(self, shard: int, before: int, keep: Set[int]) -> int:
        """See `Store.trim`."""
        return self._told("trim", lambda: self._store.trim(shard, before, keep))

    def put(self, name: str, data: bytes) -> None:
        """See `Store.put`."""
        self._told("put", lambda: self._store.put(name, data), len(data))

    def note(self, name: str, data: bytes) -> None:
        """See `Store.note`."""
        self._told("note", lambda: self._store.note(name, data), len(data))

    def get(self, name: str) -> bytes:
        """See `Store.get`."""
        return self._told("get", lambda: self._store.get(name))

    def list(self, prefix: str) -> list[Listed]:
        """See `Store.list`."""
        return self._told("list", lambda: self._store.list(prefix))

    def delete(self, names: Sequence[str]) -> None:
        """See `Store.delete`."""
        self._told("delete", lambda: self._store.delete(names))

    def close(self) -> None:
        """See `Store.close`; not counted."""
        self._store.close()

    def _told(self, operation: str, call: Callable[[], T], size: int = 0) -> T:
        started, failed = time.perf_counter(), True
        try:
            result = call()
            failed, size = False, len(result) if isinstance(result, bytes) else size
            return result
        except (Conflict, Missing):
            failed = False
            raise
        finally:
            self._observe(Call(operation, time.perf_counter() - started, size, failed))
