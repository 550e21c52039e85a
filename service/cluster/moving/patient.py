"""A store whose calls are repeated for a while when it does not answer: moving data takes many, and no one waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from service.cluster.store.around import Around
from service.cluster.store.patience import repeat
from service.cluster.store.seam import Extent, Store

GIVE_UP_S = 60.0  # from a call's first try to its last

T = TypeVar("T")


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


class Patient(Around):
    """Repeats each call of a store with the same arguments. Raises StoreUnavailable after GIVE_UP_S. Owns the store."""

    def __init__(self, store: Store, sleep: Callable[[float], bool] = _sleep) -> None:
        """sleep: waits this many seconds, and returns whether to give up."""
        super().__init__(store)
        self._sleep = sleep

    def _pass(self, operation: str, call: Callable[[], T], size: int = 0) -> T:
        return repeat(call, self._sleep, GIVE_UP_S)

    def read(self, shard: int, extents: Sequence[Extent]) -> Iterator[bytes]:
        """See `Store.read`. After a fault, it continues with the entry that failed."""
        done, entries = 0, iter(self._store.read(shard, extents))

        def following() -> bytes:
            nonlocal entries
            try:
                return next(entries)
            except BaseException:
                entries = iter(self._store.read(shard, extents[done:]))
                raise

        for _ in extents:
            yield self._pass("read", following)
            done += 1
