"""What was accepted and could not be learned: a model's quarantine, filled and emptied by its records alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from model.fold.histories import CONFLICT, LATE, NON_FINITE, RANGE, UNKNOWN
from model.fold.windows import NO_LABEL, SHAPE
from service.journal.records import Label, Window

KEPT = 10_000  # items of a model; beyond them the oldest is dropped, and counted
SKIPPED = "skipped"  # the reason of items that a Skip record names
REASONS = (LATE, UNKNOWN, CONFLICT, RANGE, NON_FINITE, NO_LABEL, SHAPE, SKIPPED)  # every reason of an item
NO_STREAM = -1  # of an item that is a window


class Item(NamedTuple):
    """One label or window. A window's rows stay in the journal, where `offset` finds them."""

    id: int  # 1, 2, 3 … per model
    offset: int  # the journal entry of the model that it is: entries before it
    reason: str
    stream: int  # stream number of a label; NO_STREAM for a window
    seq: int  # of the label's tick, or of the window
    y: bytes  # the label's values, little-endian float32
    source: str  # of the window


class Quarantine:
    """Items by id. Everything but the newest changes is on disk only: see `changes`."""

    def __init__(self, ids: Iterable[int] = (), next_id: int = 1, dropped: int = 0, totals: Any = None) -> None:
        """ids: those on disk. The rest is what `pack` gave."""
        self._ids = dict.fromkeys(ids)  # in order, oldest first
        self._next_id = next_id
        self.dropped = dropped  # items that made room for newer ones
        self.totals: dict[str, int] = dict(totals or {})  # items ever, by reason
        self._added: dict[int, Item] = {}
        self._removed: set[int] = set()

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> list[int]:
        """Ids of what is here, oldest first."""
        return list(self._ids)

    @property
    def unsaved(self) -> int:
        """Items that are in memory only."""
        return len(self._added)

    def add(self, offset: int, reason: str, what: Label | Window) -> None:
        """Put an item in; the oldest goes where there are too many."""
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
        """Take an item out, to be learned after all; False where it is not, or no longer, here."""
        if id not in self._ids:
            return False
        self._remove(id)
        return True

    def _remove(self, id: int) -> None:
        del self._ids[id]
        if self._added.pop(id, None) is None:
            self._removed.add(id)

    def changes(self) -> tuple[list[Item], set[int]]:
        """Items added and ids removed since the last call: what a checkpoint has to write."""
        added, removed = list(self._added.values()), self._removed
        self._added, self._removed = {}, set()
        return added, removed

    def pack(self) -> dict[str, Any]:
        """What the constructor takes besides the ids; JSON can hold it."""
        return {"next_id": self._next_id, "dropped": self.dropped, "totals": self.totals}
