"""A store that confirms every append and drops one in N: what freshet must notice, never repair in silence."""

import itertools
from typing import Any

from service.cluster.store.seam import Store


class Lossy:
    """Another store, without one in `every` of its appends. dropped: their shards and offsets."""

    def __init__(self, store: Store, every: int) -> None:
        self._store, self._turns = store, itertools.cycle([False] * (every - 1) + [True])
        self.dropped: list[tuple[int, int]] = []

    def append(self, shard: int, offset: int, epoch: int, data: bytes) -> None:
        if next(self._turns):
            self.dropped.append((shard, offset))
        else:
            self._store.append(shard, offset, epoch, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
