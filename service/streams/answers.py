"""The last answers of one model, for ticks that are sent again: one log for all its streams, bounded by bytes.

It holds columns instead of objects, so that a packed message is one append. The answers of one stream are a chain
through the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Positions = NDArray[np.int64]
Places = NDArray[np.intp]  # of columns

LOG_BYTES = 8 << 20
# The least number of answers kept: the largest `max_undurable`, and more than the SDK's largest `in_flight`, so that a
# model's only stream never repeats a tick whose answer is gone. Busy streams evict a slow stream's answers sooner.
KEPT_ANSWERS = 256
FIRST_SIZE = 256
LONGEST_WALK = 1024  # links followed for one repeated tick
NONE = -1  # no position


class Answer(NamedTuple):
    """A tick and its answer."""

    seq: int
    time: float  # event time, seconds; NaN: none
    x: bytes  # C little-endian float32
    y: bytes  # A little-endian float32: forecasts and, with intervals, their bounds
    version: int
    judged_through: int


class Kept(NamedTuple):
    """Ticks of one stream that follow one another, oldest first, with their answers: columns of n rows, copies."""

    seq: NDArray[np.uint64]
    time: NDArray[np.float64]  # event times, seconds; NaN: none
    x: Array  # [n, values asked for]
    y: Array  # [n, outputs asked for]
    version: NDArray[np.uint32]
    judged: NDArray[np.uint64]  # judged_through of each
    offset: NDArray[np.uint64]  # the journal's, just after each


class AnswerLog:
    """The last answers of one model, by position: 0, 1, 2 … in the order they were made.

    The caller keeps the position of each stream's newest answer; each answer holds that of its stream's previous one.
    """

    def __init__(self, channels: int, outputs: int, limit_bytes: int = LOG_BYTES) -> None:
        self._kinds: dict[str, tuple[str, tuple[int, ...]]] = {
            "stream": ("<u4", ()), "version": ("<u4", ()), "seq": ("<u8", ()), "judged": ("<u8", ()),
            "offset": ("<u8", ()), "previous": ("<i8", ()), "time": ("<f8", ()), "x": ("<f4", (channels,)),
            "y": ("<f4", (outputs,)),
        }  # fmt: skip
        self.entry_bytes = sum(np.dtype(kind).itemsize * int(np.prod(shape)) for kind, shape in self._kinds.values())
        fitting = limit_bytes // self.entry_bytes
        self.capacity = max(KEPT_ANSWERS, 1 << max(0, fitting.bit_length() - 1))
        self.end = self._first = 0
        self._allocate(min(FIRST_SIZE, self.capacity))

    def _allocate(self, size: int) -> None:
        self._size = size
        self._columns: dict[str, NDArray[Any]] = {n: np.zeros((size, *s), k) for n, (k, s) in self._kinds.items()}

    @property
    def start(self) -> int:
        """The oldest kept position."""
        return max(self._first, self.end - self._size)

    def add(
        self, stream: int, version: int, seq: int, judged: int, offset: int, previous: int, time: float, x: Array,
        y: Array,
    ) -> int:  # fmt: skip
        """Add one answer and return its position: `append` for one, in a third of the time. x: (C,); y: (A,)."""
        position = self.end
        if position >= self._size < self.capacity:
            self._grow()
        at, c = position & (self._size - 1), self._columns
        c["stream"][at], c["version"][at], c["seq"][at], c["judged"][at] = stream, version, seq, judged
        c["offset"][at], c["previous"][at], c["time"][at], c["x"][at], c["y"][at] = offset, previous, time, x, y
        self.end = position + 1
        return position

    def append(self, n: int, **values: Any) -> Positions:
        """Add n answers and return their positions, end .. end + n − 1.

        values: one per column (stream, seq, time, x, y, version, judged, offset, previous), an array of n or a value
        for all.
        """
        while self.end + n > self._size < self.capacity:
            self._grow()
        positions = np.arange(self.end, self.end + n)
        at: Any = positions & (self._size - 1)
        if at[0] + n <= self._size:  # the log is a ring: these lie side by side
            at = slice(int(at[0]), int(at[0]) + n)
        for name, column in self._columns.items():
            column[at] = values[name]
        self.end += n
        return positions

    def _grow(self) -> None:
        """Double the size. Every answer keeps its position."""
        old, kept = self._columns, np.arange(self.start, self.end)
        mask = self._size - 1
        self._allocate(2 * self._size)
        for name, column in old.items():
            self._columns[name][kept & (self._size - 1)] = column[kept & mask]

    def find(self, newest: int, seq: int) -> Answer | None:
        """Return the answer to tick `seq` of the stream whose newest answer is at `newest`; None if it is not kept."""
        seqs, previous, mask = self._columns["seq"], self._columns["previous"], self._size - 1
        position, start = newest, self.start
        for _ in range(LONGEST_WALK):
            if position < start:
                return None
            found = int(seqs[position & mask])
            if found <= seq:
                return self.at(position) if found == seq else None
            position = int(previous[position & mask])
        return None

    def at(self, position: int) -> Answer:
        """Return the answer at a kept position."""
        i, c = position & (self._size - 1), self._columns
        return Answer(
            int(c["seq"][i]), float(c["time"][i]), c["x"][i].tobytes(), c["y"][i].tobytes(), int(c["version"][i]),
            int(c["judged"][i]),
        )  # fmt: skip

    def chain(self, newest: int) -> list[Answer]:
        """Return all kept answers of a stream, oldest first."""
        answers, position = [], newest
        while position >= self.start:
            answers.append(self.at(position))
            position = int(self._columns["previous"][position & (self._size - 1)])
        return answers[::-1]

    def last(self, newest: int, most: int, since: int = 0, x: Places | None = None, y: Places | None = None) -> Kept:
        """Return the last `most` kept ticks after `since` of a stream, up to its newest answer, at `newest`.

        They end where a tick before them is gone: their seqs have no gap. x, y: the columns asked for; None: all.
        """
        seqs, previous, mask, start = self._columns["seq"], self._columns["previous"], self._size - 1, self.start
        at: list[int] = []
        position, expected = newest, None
        while position >= start and len(at) < most:
            i = position & mask
            seq = int(seqs[i])
            if seq <= since or (expected is not None and seq != expected):
                break
            at.append(i)
            position, expected = int(previous[i]), seq - 1
        these, c = np.array(at[::-1], np.intp), self._columns
        values = c["x"][these] if x is None else c["x"][these[:, None], x]
        answers = c["y"][these] if y is None else c["y"][these[:, None], y]
        return Kept(c["seq"][these], c["time"][these], values, answers, *(c[n][these] for n in Kept._fields[4:]))

    def judged_part(self, since: int, offset: int) -> tuple[int, NDArray[np.uint32], NDArray[np.uint64]]:
        """Return the answers from position `since` with journal offsets up to `offset`: their end, streams and seqs."""
        since = max(since, self.start)
        at = np.arange(since, self.end) & (self._size - 1)
        n = int(np.searchsorted(self._columns["offset"][at], offset, side="right"))  # offsets only grow
        return since + n, self._columns["stream"][at[:n]], self._columns["seq"][at[:n]]

    def judged_seq(self, newest: int, offset: int) -> int:
        """Return the stream's newest kept tick with a journal offset up to `offset`; 0 if there is none."""
        c, mask, position = self._columns, self._size - 1, newest
        while position >= self.start:
            if int(c["offset"][position & mask]) <= offset:
                return int(c["seq"][position & mask])
            position = int(c["previous"][position & mask])
        return 0

    def streams(self) -> list[int]:
        """Return the numbers of the streams that have an answer in the log."""
        at = np.arange(self.start, self.end) & (self._size - 1)
        numbers: list[int] = np.unique(self._columns["stream"][at]).tolist()
        return numbers

    def forget(self, streams: Sequence[int]) -> None:
        """Overwrite the ticks and answers of these streams with zeros. Their chains must not be followed any more."""
        theirs = np.isin(self._columns["stream"], np.array(streams, np.uint32))
        for name in ("seq", "time", "x", "y"):
            self._columns[name][theirs] = 0

    def pack(self, since: int) -> tuple[int, bytes]:
        """Return the answers from `since`, or the oldest kept, to the end: first position, and columns as bytes."""
        first = max(since, self.start)
        a, n = first & (self._size - 1), self.end - first
        parts = slice(a, min(a + n, self._size)), slice(0, max(0, a + n - self._size))  # the log is a ring
        return first, b"".join(column[part].data for column in self._columns.values() for part in parts)

    def unpack(self, first: int, data: bytes) -> None:
        """Append the result of `pack`. Raises ValueError for a length that does not fit, or a gap before it."""
        n, rest = divmod(len(data), self.entry_bytes)
        if rest or (self.end and first != self.end):
            raise ValueError(f"answers from {first}: {len(data)} bytes, {self.entry_bytes} each, after {self.end}")
        if not self.end:
            self.end = self._first = first
        values, at = {}, 0
        for name, (kind, shape) in self._kinds.items():
            column = np.frombuffer(data, kind, n * int(np.prod(shape)), at).reshape(n, *shape)
            at += column.nbytes
            values[name] = column
        if n:
            self.append(n, **values)
