"""A store whose calls are repeated for a while when it does not answer: moving data takes many, and no one waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence, Set
from typing import TypeVar

from service.cluster.store.patience import repeat
from service.cluster.store.seam import Extent, Listed, Store

GIVE_UP_S = 60.0  # from a call's first try to its last

T = TypeVar("T")


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


class Patient:
    """Repeats each call of a store with the same arguments. Raises StoreUnavailable after GIVE_UP_S. Owns the store."""

    def __init__(self, store: Store, sleep: Callable[[float], bool] = _sleep) -> None:
        """sleep: waits this many seconds, and returns whether to give up."""
        self.url, self._store, self._sleep = store.url, store, sleep

    def append(self, shard: int, offset: int, epoch: int, data: bytes) -> None:
        """See `Store.append`."""
        self._again(lambda: self._store.append(shard, offset, epoch, data))

    def claim(self, shard: int, offset: int, epoch: int, data: bytes) -> None:
        """See `Store.claim`."""
        self._again(lambda: self._store.claim(shard, offset, epoch, data))

    def extents(self, shard: int, start: int) -> list[Extent]:
        """See `Store.extents`."""
        return self._again(lambda: self._store.extents(shard, start))

    def read(self, shard: int, extents: Sequence[Extent]) -> Iterator[bytes]:
        """See `Store.read`. After a fault, it goes on with the entry that failed."""
        done, entries = 0, iter(self._store.read(shard, extents))

        def following() -> bytes:
            nonlocal entries
            try:
                return next(entries)
            except BaseException:
                entries = iter(self._store.read(shard, extents[done:]))
                raise

        for _ in extents:
            yield self._again(following)
            done += 1

    def trim(self, shard: int, before: int, keep: Set[int]) -> int:
        """See `Store.trim`."""
        return self._again(lambda: self._store.trim(shard, before, keep))

    def put(self, name: str, data: bytes) -> None:
        """See `Store.put`."""
        self._again(lambda: self._store.put(name, data))

    def note(self, name: str, data: bytes) -> None:
        """See `Store.note`."""
        self._again(lambda: self._store.note(name, data))

    def get(self, name: str) -> bytes:
        """See `Store.get`."""
        return self._again(lambda: self._store.get(name))

    def list(self, prefix: str) -> list[Listed]:
        """See `Store.list`."""
        return self._again(lambda: self._store.list(prefix))

    def delete(self, names: Sequence[str]) -> None:
        """See `Store.delete`."""
        self._again(lambda: self._store.delete(names))

    def close(self) -> None:
        """See `Store.close`."""
        self._store.close()

    def _again(self, call: Callable[[], T]) -> T:
        return repeat(call, self._sleep, GIVE_UP_S)
