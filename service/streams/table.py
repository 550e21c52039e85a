"""The streams of one model in memory, as columns. Rows are reused; stream numbers never are."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]
At = Rows | slice  # rows, or places of an array, to index with

ABSENT = -1
FIRST_ROWS = 16
MAPPED_BYTES = 1 << 20  # states of this size and more have a memory map of their own


def span(rows: Rows) -> At:
    """Return rows that follow one another as a slice, so that indexing copies nothing; others as they are.

    Streams that were opened in one go, as those of a gateway, have such rows. ABSENT is never in a slice.
    """
    n = len(rows)
    if n > 1 and rows[0] >= 0 and rows[-1] - rows[0] == n - 1 and (rows[1:] > rows[:-1]).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def listed(at: At) -> Rows:
    """Return what `span` has taken as an array."""
    return np.arange(at.start, at.stop) if isinstance(at, slice) else at


class MappedRows:
    """Float32 rows that grow and shrink without a copy: the system moves their pages.

    `array`: [rows, width]; new rows are zero. Each `resize` replaces it: do not keep a reference.
    """

    def __init__(self, rows: int, width: int) -> None:
        self._width = width
        self._map = self._mapped(rows)
        self.array = self._view()

    def _mapped(self, rows: int) -> mmap.mmap:
        # Not shared: a shared map cannot grow beyond its first size.
        return mmap.mmap(-1, max(1, 4 * rows * self._width), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def _view(self) -> NDArray[np.float32]:
        return np.frombuffer(self._map, np.float32).reshape(-1, self._width)

    def resize(self, rows: int) -> None:
        """Set the number of rows."""
        kept = min(rows, len(self.array))
        self.array = np.zeros((0, self._width), np.float32)  # releases the map
        try:
            self._map.resize(max(1, 4 * rows * self._width))
        except (BufferError, SystemError, ValueError, OSError):  # a view exists, or the system cannot move pages
            old, self._map = self._view(), self._mapped(rows)
            self.array = self._view()
            self.array[:kept] = old[:kept]
        else:
            self.array = self._view()


class StreamTable:
    """One row per stream, and the row of each stream number. The columns:

    - number; epoch, up by one at each takeover; last_seq; durable_seq
    - last_time: of the last tick that had one, seconds since 1970; NaN: none
    - origin: see `Origin`
    - judged: seq through which labels are judged, unless all are: see `ServedModel.judged_seq`
    - last_offset: the journal's, just after the last tick
    - newest: position of the last answer in the model's log; −1: none
    - touched: last use, clock seconds; full_at: clock seconds, see `rates`
    - owner: of the open call, 0: none; pinned: must stay in memory; changed: since the last snapshot
    - state: [rows, S]

    Rows that no stream has used take no memory yet, so doubling is free.
    """

    def __init__(self, state_size: int) -> None:
        self._kinds: dict[str, tuple[Any, tuple[int, ...]]] = {
            "number": (np.uint32, ()), "epoch": (np.uint64, ()), "last_seq": (np.uint64, ()),
            "durable_seq": (np.uint64, ()), "last_time": (np.float64, ()), "origin": (np.uint8, ()),
            "judged": (np.uint64, ()), "last_offset": (np.uint64, ()), "newest": (np.int64, ()),
            "touched": (np.float64, ()), "full_at": (np.float64, ()), "owner": (np.int32, ()),
            "pinned": (np.bool_, ()), "changed": (np.bool_, ()), "state": (np.float32, (state_size,)),
        }  # fmt: skip
        self.number: NDArray[np.uint32]
        self.epoch: NDArray[np.uint64]
        self.last_seq: NDArray[np.uint64]
        self.durable_seq: NDArray[np.uint64]
        self.last_time: NDArray[np.float64]
        self.origin: NDArray[np.uint8]
        self.judged: NDArray[np.uint64]
        self.last_offset: NDArray[np.uint64]
        self.newest: NDArray[np.int64]
        self.touched: NDArray[np.float64]
        self.full_at: NDArray[np.float64]
        self.owner: NDArray[np.int32]
        self.pinned: NDArray[np.bool_]
        self.changed: NDArray[np.bool_]
        self.state: NDArray[np.float32]
        for name, (kind, shape) in self._kinds.items():
            setattr(self, name, np.zeros((FIRST_ROWS, *shape), kind))
        self.ids: list[str] = [""] * FIRST_ROWS
        self.by_id: dict[str, int] = {}  # rows
        self.removals = 0  # a read from disk that began before the last removal may be out of date
        self._free: list[int] = []
        self._used = 0
        self._row_of = np.full(FIRST_ROWS, ABSENT, np.int32)  # by number
        self._mapped: MappedRows | None = None  # the states, once they are large

    def __len__(self) -> int:
        return len(self.by_id)

    def row_of(self, number: int) -> int:
        """Return the row of a stream number; −1 if it is not in memory."""
        return int(self._row_of[number]) if number < len(self._row_of) else ABSENT

    def rows_of(self, numbers: NDArray[np.uint32]) -> Rows:
        """Return the rows of stream numbers, −1 where one is not in memory; new."""
        known = numbers < len(self._row_of)
        if known.all():
            return self._row_of[numbers].astype(np.intp)
        rows: Rows = np.full(len(numbers), ABSENT, np.intp)
        rows[known] = self._row_of[numbers[known]]
        return rows

    def add(self, id: str, number: int, epoch: int, now: float) -> int:
        """Add a row with a zero state; returns it. now: clock seconds."""
        if self._free:
            row = self._free.pop()
        else:
            if self._used == len(self.number):
                self._resize(2 * len(self.number))
            row = self._used
            self._used += 1
        for name in self._kinds:
            getattr(self, name)[row] = 0
        self.number[row], self.epoch[row], self.touched[row] = number, epoch, now
        self.last_time[row], self.newest[row] = np.nan, ABSENT
        self.ids[row] = id
        self.by_id[id] = row
        if number >= len(self._row_of):
            longer = np.full(max(2 * len(self._row_of), number + 1), ABSENT, np.int32)
            longer[: len(self._row_of)] = self._row_of
            self._row_of = longer
        self._row_of[number] = row
        return row

    def remove(self, row: int) -> None:
        """Remove a row; another stream will reuse it."""
        self._row_of[self.number[row]] = ABSENT
        del self.by_id[self.ids[row]]
        self.ids[row], self.number[row] = "", 0
        self.removals += 1
        self.changed[row] = self.pinned[row] = False
        self._free.append(row)

    def rows(self) -> Rows:
        """Return all rows in use, in no order; new."""
        return np.fromiter(self.by_id.values(), np.intp, len(self.by_id))

    def changed_rows(self) -> Rows:
        """Return the rows changed since the last snapshot, ascending; new."""
        return np.flatnonzero(self.changed[: self._used])

    def evict(self, judged_offset: int, now: float, idle_s: float, most: int, at_once: int) -> int:
        """Remove up to `at_once` streams that are idle for `idle_s`, or the idlest beyond `most`; returns how many.

        Only streams that are saved, not pinned and wholly judged, up to `judged_offset`, may go: the judged_through of
        a stream that returns is derived from the log. To be called between snapshots.
        """
        rows = self.rows()
        is_judged = self.last_offset[rows] <= judged_offset
        may_go = rows[~self.changed[rows] & ~self.pinned[rows] & is_judged]
        order = may_go[np.argsort(self.touched[may_go], kind="stable")]
        idle = int(np.searchsorted(self.touched[order], now - idle_s, side="right"))
        gone = order[: min(max(idle, len(rows) - most), at_once)]
        for row in gone.tolist():
            self.remove(row)
        if 0 < len(gone) < at_once:
            self.shrink()
        return len(gone)

    def oldest(self) -> float:
        """Return the last tick of the idlest stream that is not pinned, clock seconds; infinite without one."""
        rows = self.rows()
        return float(self.touched[rows[~self.pinned[rows]]].min(initial=np.inf))

    def shrink(self) -> None:
        """Release memory if most rows are free. Rows in use do not move, so only the end can go."""
        end = int(self.rows().max(initial=-1)) + 1
        size = max(FIRST_ROWS, 2 * end)
        if size > len(self.number) // 2:
            return
        self._resize(size)
        self._used = min(self._used, end)
        self._free = [row for row in self._free if row < end]
        self.by_id = dict(self.by_id)  # a dict does not shrink by itself

    def _resize(self, size: int) -> None:
        kept = min(size, len(self.number))
        for name, (kind, shape) in self._kinds.items():
            if name == "state" and (self._mapped or size * self.state[0].nbytes >= MAPPED_BYTES):
                self._resize_states(size, kept)
                continue
            made = np.zeros((size, *shape), kind)
            made[:kept] = getattr(self, name)[:kept]
            setattr(self, name, made)
        self.ids = self.ids[:kept] + [""] * (size - kept)

    def _resize_states(self, size: int, kept: int) -> None:
        """Resize the column that may hold gigabytes: it is copied once, while it is small."""
        if self._mapped is None:
            self._mapped = MappedRows(size, self.state.shape[1])
            self._mapped.array[:kept] = self.state[:kept]
        else:
            self.state = self.state[:0].copy()
            self._mapped.resize(size)
        self.state = self._mapped.array
