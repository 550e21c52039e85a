"""A store whose faults a test chooses: it forgets, refuses, or answers with an error after having written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set

from service.cluster.store.seam import Extent, Listed, Store, StoreUnavailable

WRITES = ("append", "claim", "put", "note")


class Faulty:
    """Passes calls on to `inner`. calls: (operation, name or offset) of each call that changed something."""

    def __init__(self, inner: Store) -> None:
        self.inner, self.url = inner, inner.url
        self.calls: list[tuple[str, str | int]] = []
        self.down: Callable[[str], bool] = lambda operation: False  # whether the store refuses this operation
        self.errors_after: dict[str, int] = {}  # writes that are done and answered with an error, by operation
        self.loses: Callable[[int], bool] = lambda offset: False  # whether an acknowledged entry is never written
        self.before: Callable[[str], None] = lambda operation: None
        self.read_bytes = 0

    def append(self, shard: int, offset: int, epoch: int, data: bytes) -> None:
        def write() -> None:
            if not self.loses(offset):
                self.inner.append(shard, offset, epoch, data)

        self._write("append", offset, write)

    def claim(self, shard: int, offset: int, epoch: int, data: bytes) -> None:
        self._write("claim", offset, lambda: self.inner.claim(shard, offset, epoch, data))

    def extents(self, shard: int, start: int) -> list[Extent]:
        self._enter("extents")
        return self.inner.extents(shard, start)

    def read(self, shard: int, extents: Sequence[Extent]) -> Iterator[bytes]:
        self._enter("read")
        for data in self.inner.read(shard, extents):
            self.read_bytes += len(data)
            yield data

    def trim(self, shard: int, before: int, keep: Set[int]) -> int:
        self._enter("trim")
        return self.inner.trim(shard, before, keep)

    def put(self, name: str, data: bytes) -> None:
        self._write("put", name, lambda: self.inner.put(name, data))

    def note(self, name: str, data: bytes) -> None:
        self._write("note", name, lambda: self.inner.note(name, data))

    def get(self, name: str) -> bytes:
        self._enter("get")
        data = self.inner.get(name)
        self.read_bytes += len(data)
        return data

    def list(self, prefix: str) -> list[Listed]:
        self._enter("list")
        return self.inner.list(prefix)

    def delete(self, names: Sequence[str]) -> None:
        self._enter("delete")
        self.inner.delete(names)

    def close(self) -> None:
        self.inner.close()

    def _enter(self, operation: str) -> None:
        self.before(operation)
        if self.down(operation):
            raise StoreUnavailable(f"{self.url}: a test refuses {operation}")

    def _write(self, operation: str, what: str | int, write: Callable[[], None]) -> None:
        self._enter(operation)
        write()
        self.calls.append((operation, what))
        if self.errors_after.get(operation, 0):
            self.errors_after[operation] -= 1
            raise StoreUnavailable(f"{self.url}: a test's error after {operation}")
