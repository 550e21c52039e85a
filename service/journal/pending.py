"""Entries of one model between append and commit: ticks as columns, other records already encoded."""

from __future__ import annotations

from array import array

import numpy as np

from service.journal.records import U32, U64, Label, Record, Ticks, Window, encode_record, join_chunk

TICK_BYTES = 20  # stream, seq and time of a tick


class _Run:
    """Consecutive ticks with rows of equal width, in growing columns; NumPy arrays are made once, by `encode`."""

    __slots__ = ("rows", "seqs", "streams", "times", "width")

    def __init__(self, width: int) -> None:
        self.width = width  # bytes of a row
        self.streams, self.seqs, self.times = array("I"), array("Q"), array("d")
        self.rows = bytearray()

    def encode(self) -> bytes:
        x = np.frombuffer(self.rows, np.float32).reshape(len(self.seqs), -1)
        return encode_record(
            Ticks(
                np.frombuffer(self.streams, np.uint32),
                np.frombuffer(self.seqs, np.uint64),
                np.frombuffer(self.times, np.float64),
                x,
            )
        )


class PendingChunk:
    """A chunk that collects entries on the event loop; `encode` runs in the writer's thread after the last one."""

    __slots__ = ("_parts", "count", "labels", "learn_every", "model", "offset", "size")

    def __init__(self, model: int, offset: int) -> None:
        self.model, self.offset = model, offset
        self.learn_every = 1
        self.count = 0  # logical entries
        self.labels = 0  # of them, labels and windows
        self.size = 0  # bytes, without the chunk header
        self._parts: list[bytes | _Run] = []

    @property
    def end(self) -> int:
        """The logical offset after the last entry."""
        return self.offset + self.count

    def add_tick(self, stream: int, seq: int, time: float, row: bytes) -> None:
        """Append one tick. row: its float32 values."""
        run = self._run(len(row))
        run.streams.append(stream)
        run.seqs.append(seq)
        run.times.append(time)
        run.rows += row
        self.count += 1
        self.size += TICK_BYTES + len(row)

    def add(self, record: Record) -> None:
        """Append any record, copied. Raises RecordError for one that cannot be written: the chunk is unchanged then."""
        encoded = encode_record(record)
        if not isinstance(record, Ticks):
            self._parts.append(encoded)
            self.count += 1
            self.labels += isinstance(record, Label | Window)
            self.size += len(encoded)
            return
        run = self._run(record.x.itemsize * record.x.shape[1])
        run.streams.frombytes(record.stream.tobytes())
        run.seqs.frombytes(record.seq.tobytes())
        run.times.frombytes(record.time.tobytes())
        run.rows += record.x.tobytes()
        self.count += len(record.seq)
        self.size += TICK_BYTES * len(record.seq) + record.x.nbytes

    def encode(self) -> bytes:
        """Return the encoded chunk."""
        parts = [part if isinstance(part, bytes) else part.encode() for part in self._parts]
        return join_chunk(self.model, self.offset, self.learn_every, parts)

    def ticks(self) -> tuple[U32, U64]:
        """Return streams and seqs of the ticks, in order, as new arrays."""
        runs = [part for part in self._parts if isinstance(part, _Run)]
        streams, seqs = array("I"), array("Q")
        for run in runs:
            streams.extend(run.streams)
            seqs.extend(run.seqs)
        return np.array(streams, np.uint32), np.array(seqs, np.uint64)

    def _run(self, width: int) -> _Run:
        """Return the run that a tick with a row of `width` bytes continues: the last part, or a new one."""
        parts = self._parts
        if parts and type(run := parts[-1]) is _Run and run.width == width:
            return run
        parts.append(run := _Run(width))
        return run
