"""What a backend of the store does: conditional append, blobs that never change, and notes that may.

An *entry* is the bytes of one commit of a shard's journal: one or more frames (service/journal/segments.py). Its
*offset* is the position of its first byte, so the next entry's offset is `offset + len(data)`. The condition that
fences former owners is the key: at each offset there is at most one entry, and it never changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple, Protocol


class Conflict(RuntimeError):
    """The offset holds another entry, the epoch is not the shard's, or a blob of the name has other bytes.

    Nothing was written. A writer that gets it has lost the shard, or never had it.
    """


class StoreUnavailable(RuntimeError):
    """The store cannot be reached, or answered with a fault of its own.

    Whether the call took effect is unknown; the same call with the same bytes may be repeated.
    """


class StoreRefused(RuntimeError):
    """The store cannot be used as configured, or breaks a promise. The text names the URL without its password, what
    was seen, and the remedy.

    Repeating the call does not help: an operator must act. Of a write whether it took effect is unknown.
    """


class StoreLost(RuntimeError):
    """The store no longer has what it acknowledged. The text names shard and offset."""


class Missing(LookupError):
    """No blob or note has this name."""


class Extent(NamedTuple):
    """Where an entry lies."""

    offset: int
    size: int  # bytes


class Listed(NamedTuple):
    """A blob or a note in a listing."""

    name: str
    size: int  # bytes


class Store(Protocol):
    """A store. Every method blocks, for a bounded time, may be called from any thread, and raises StoreUnavailable and
    StoreRefused.

    Names of blobs and notes are relative paths of `[a-z0-9._-]` words joined by `/`; at most 200 characters.
    """

    url: str  # without a password, for messages

    def append(self, shard: int, offset: int, epoch: int, data: bytes) -> None:
        """Add an entry; durable on return. Raises Conflict.

        Idempotent: if the offset holds the same bytes, the call succeeds, so that a writer whose answer was lost finds
        its own entry. So no two writers may ever write the same bytes at one offset: those of a claim hold something
        that its writer alone has. The caller, who is the only writer of its epoch, passes the end of its last entry as
        the offset. That is what fences: some backends look at the offset alone, others also at the epoch.
        """

    def claim(self, shard: int, offset: int, epoch: int, data: bytes) -> None:
        """Add the first entry of a new epoch, as `append`. Afterwards appends of lower epochs conflict. Raises Conflict
        if the offset is taken by other bytes or the epoch is not higher than the shard's."""

    def extents(self, shard: int, start: int) -> list[Extent]:
        """Return the entries with offsets of at least `start`, in order. Sees every entry that was acknowledged before
        the call."""

    def read(self, shard: int, extents: Sequence[Extent]) -> Iterator[bytes]:
        """Yield the bytes of entries, in the order given. Raises StoreLost for one that is gone or has another size."""

    def trim(self, shard: int, before: int, keep: Set[int]) -> int:
        """Delete the entries with offsets below `before`, the oldest first; return their number.

        keep: offsets that stay, those of claims: a former owner that wakes up would append where one stood.
        """

    def put(self, name: str, data: bytes) -> None:
        """Store a blob; durable on return. The same bytes again succeed. Raises Conflict for other bytes."""

    def note(self, name: str, data: bytes) -> None:
        """Write a small note in place of the one before it."""

    def get(self, name: str) -> bytes:
        """Return a blob or note. Raises Missing."""

    def list(self, prefix: str) -> list[Listed]:
        """Return the blobs and notes whose names begin with `prefix`, by name."""

    def delete(self, names: Sequence[str]) -> None:
        """Delete blobs or notes; ignores missing ones."""

    def close(self) -> None:
        """Release connections and files."""
