"""A model's quarantine: labels and windows that were accepted and could not be learned. A fold over its records."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from model.fold.histories import CONFLICT, LATE, NON_FINITE, RANGE, UNKNOWN
from model.fold.windows import NO_LABEL, SHAPE
from service.journal.records import Label, Window

KEPT = 10_000  # items of a model; with more, the oldest is dropped and counted
SKIPPED = "skipped"  # the reason of items that a Skip record names
REASONS = (LATE, UNKNOWN, CONFLICT, RANGE, NON_FINITE, NO_LABEL, SHAPE, SKIPPED)  # every reason of an item
NO_STREAM = -1  # the stream of an item that is a window


class Item(NamedTuple):
    """One label or window. A window's rows stay in the journal, where `offset` finds them."""

    id: int  # 1, 2, 3 … per model
    offset: int  # journal entries of the model before it
    reason: str
    stream: int  # stream number of a label; NO_STREAM for a window
    seq: int  # of the label's tick, or of the window
    y: bytes  # the label's values, little-endian float32
    source: str  # of the window; empty for a label


class Quarantine:
    """Items by id. Only changes since the last checkpoint are in memory: see `changes`."""

    def __init__(self, ids: Iterable[int] = (), next_id: int = 1, dropped: int = 0, totals: Any = None) -> None:
        """ids: of the items on disk. The other arguments: as `pack` returned them."""
        self._ids = dict.fromkeys(ids)  # in order, oldest first
        self._next_id = next_id
        self.dropped = dropped  # items dropped for newer ones
        self.totals: dict[str, int] = dict(totals or {})  # items ever, by reason
        self._added: dict[int, Item] = {}
        self._removed: set[int] = set()

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> list[int]:
        """Ids of the items, oldest first."""
        return list(self._ids)

    @property
    def unsaved(self) -> int:
        """Items that are in memory only."""
        return len(self._added)

    def add(self, offset: int, reason: str, what: Label | Window) -> None:
        """Add an item; drop the oldest if there are too many."""
        id = self._next_id
        if isinstance(what, Label):
            item = Item(id, offset, reason, what.stream, what.seq, what.y.tobytes(), "")
        else:
            item = Item(id, offset, reason, NO_STREAM, what.window_seq, b"", what.source)
        self._next_id += 1
        self._ids[id] = None
        self._added[id] = item
        self.totals[reason] = self.totals.get(reason, 0) + 1
        if len(self._ids) > KEPT:
            self._remove(next(iter(self._ids)))
            self.dropped += 1

    def release(self, id: int) -> bool:
        """Remove an item, which is learned after all; False if it is not, or no longer, there."""
        if id not in self._ids:
            return False
        self._remove(id)
        return True

    def _remove(self, id: int) -> None:
        del self._ids[id]
        if self._added.pop(id, None) is None:
            self._removed.add(id)

    def changes(self) -> tuple[list[Item], set[int]]:
        """Return the items added and the ids removed since the last call, for a checkpoint to write."""
        added, removed = list(self._added.values()), self._removed
        self._added, self._removed = {}, set()
        return added, removed

    def pack(self) -> dict[str, Any]:
        """Return the constructor's arguments besides the ids, for JSON."""
        return {"next_id": self._next_id, "dropped": self.dropped, "totals": self.totals}
