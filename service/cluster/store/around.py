"""A store around another one: every call passes one function, which a subclass decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from typing import TypeVar

from service.cluster.store.seam import Extent, Listed, Store

T = TypeVar("T")


class Around:
    """Passes each call on through `_pass`. Owns the store: `close` closes it, past `_pass`."""

    def __init__(self, store: Store) -> None:
        self.url, self._store = store.url, store

    def _pass(self, operation: str, call: Callable[[], T], size: int = 0) -> T:
        """Return what the call returns. operation: the method's name; size: bytes that it is given."""
        return call()

    def append(self, shard: int, offset: int, epoch: int, data: bytes) -> None:
        """See `Store.append`."""
        self._pass("append", lambda: self._store.append(shard, offset, epoch, data), len(data))

    def claim(self, shard: int, offset: int, epoch: int, data: bytes) -> None:
        """See `Store.claim`."""
        self._pass("claim", lambda: self._store.claim(shard, offset, epoch, data), len(data))

    def extents(self, shard: int, start: int) -> list[Extent]:
        """See `Store.extents`."""
        return self._pass("extents", lambda: self._store.extents(shard, start))

    def read(self, shard: int, extents: Sequence[Extent]) -> Iterator[bytes]:
        """See `Store.read`. Each entry passes as one call, with the time until it is there."""
        entries = iter(self._store.read(shard, extents))
        for extent in extents:
            yield self._pass("read", lambda: next(entries), extent.size)

    def trim(self, shard: int, before: int, keep: Set[int]) -> int:
        """See `Store.trim`."""
        return self._pass("trim", lambda: self._store.trim(shard, before, keep))

    def put(self, name: str, data: bytes) -> None:
        """See `Store.put`."""
        self._pass("put", lambda: self._store.put(name, data), len(data))

    def note(self, name: str, data: bytes) -> None:
        """See `Store.note`."""
        self._pass("note", lambda: self._store.note(name, data), len(data))

    def get(self, name: str) -> bytes:
        """See `Store.get`."""
        return self._pass("get", lambda: self._store.get(name))

    def list(self, prefix: str) -> list[Listed]:
        """See `Store.list`."""
        return self._pass("list", lambda: self._store.list(prefix))

    def delete(self, names: Sequence[str]) -> None:
        """See `Store.delete`."""
        self._pass("delete", lambda: self._store.delete(names))

    def close(self) -> None:
        """See `Store.close`."""
        self._store.close()
