"""Journal records: their kinds, fields and bytes.

Layout, little-endian, version = the segment format version (service/journal/segments.py):

    chunk  = model, record count (u32 each), offset, learn_every (u64 each), then the records
    record = kind, body length (u32 each), then the fields of its dataclass in their order

Every field is padded to a multiple of 8 bytes (service/journal/fields.py). A chunk has one encoding, and no other
bytes decode: `encode_chunk(decode_chunk(b)) == b` for every `b` that decodes.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from service.journal.fields import Array, Cursor, Digest, Field, Float, Optional, RecordError, Text, Unsigned

__all__ = [
    "SHARD", "Chunk", "Claim", "Gathered", "Kind", "Label", "ModelChange", "ModelCreate", "ModelDelete",
    "Paused", "Promote", "Record", "RecordError", "Reset", "Resumed", "Rollback", "Skip", "Slice",
    "StateDelete", "StatePut", "Stored", "StreamOpened", "Swap", "Ticks", "Window", "decode_chunk", "encode_chunk",
    "encode_record", "entries", "join_chunk",
]  # fmt: skip

U16_MAX = 2**16 - 1
U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1
SHARD = 0  # no model has this number: its chunks hold the records of the shard itself, and their offsets mean nothing

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]


class Kind(enum.IntEnum):
    """The kind numbers on disk. Never renumbered; a new kind takes the next number."""

    STREAM = 1
    TICK = 2
    LABEL = 3
    WINDOW = 4
    RESET = 5
    STATE_PUT = 6
    STATE_DELETE = 7
    MODEL_CREATE = 8
    PAUSE = 9
    RESUME = 10
    SWAP = 11
    ROLLBACK = 12
    SKIP = 13
    MODEL_DELETE = 14
    PROMOTE = 15
    MODEL_CHANGE = 16
    CLAIM = 17
    STORED = 18
    SLICE = 19
    GATHERED = 20


# Records that hold arrays compare by identity (eq=False): an array has no one truth value. Compare their encodings.


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """Binds a stream number (u32, unique within the model) to its id: when it is created and at each takeover."""

    kind: ClassVar[Kind] = Kind.STREAM
    stream: int
    id: str
    epoch: int  # u64, one higher at each takeover


@dataclass(frozen=True, slots=True, eq=False)
class Ticks:
    """n >= 1 consecutive ticks of one model as columns; n entries in logical offsets."""

    kind: ClassVar[Kind] = Kind.TICK
    stream: U32  # (n,)
    seq: U64  # (n,)
    time: F64  # (n,) event time, seconds since 1970-01-01 UTC; NaN: none
    x: F32  # (n, C) raw values


@dataclass(frozen=True, slots=True, eq=False)
class Label:
    """The true value for tick `seq` of a stream."""

    kind: ClassVar[Kind] = Kind.LABEL
    stream: int
    seq: int
    y: F32  # (O,)


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """T labelled ticks from `source`, deduplicated by (source, window_seq); does not change any stream."""

    kind: ClassVar[Kind] = Kind.WINDOW
    source: str
    window_seq: int
    x: F32  # (T, C)
    y: F32  # (T, O)
    weight: F32  # (T, O)
    initial_state: F32 | None  # (S,); None: zeros


@dataclass(frozen=True, slots=True)
class Reset:
    """Clears the stream's state; pending labels are void."""

    kind: ClassVar[Kind] = Kind.RESET
    stream: int


@dataclass(frozen=True, slots=True, eq=False)
class StatePut:
    """A client put this state; the stream continues after `last_seq`."""

    kind: ClassVar[Kind] = Kind.STATE_PUT
    stream: int
    last_seq: int
    last_time: float  # NaN: none
    state: F32  # (S,)


@dataclass(frozen=True, slots=True)
class StateDelete:
    """Deletes the stream and its state; its number is not used again."""

    kind: ClassVar[Kind] = Kind.STATE_DELETE
    stream: int


@dataclass(frozen=True, slots=True)
class ModelCreate:
    """First record of a model. `spec` is the filled-in model spec as JSON."""

    kind: ClassVar[Kind] = Kind.MODEL_CREATE
    tenant: str
    name: str
    spec: str


@dataclass(frozen=True, slots=True)
class Paused:
    """Learning stops here; serving continues."""

    kind: ClassVar[Kind] = Kind.PAUSE


@dataclass(frozen=True, slots=True)
class Resumed:
    """Learning continues from here."""

    kind: ClassVar[Kind] = Kind.RESUME


@dataclass(frozen=True, slots=True)
class Swap:
    """`version` answers every tick after this. `offset`: the model offset its weights have learned through."""

    kind: ClassVar[Kind] = Kind.SWAP
    version: int
    offset: int
    digest: bytes  # sha256 of the .onnx, 32 bytes


@dataclass(frozen=True, slots=True)
class Rollback:
    """As `Swap`, to an earlier version; learning restarts from it."""

    kind: ClassVar[Kind] = Kind.ROLLBACK
    version: int
    offset: int
    digest: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Promote:
    """As `Swap`, by request, to any kept version; learning continues from its weights, which become the anchor."""

    kind: ClassVar[Kind] = Kind.PROMOTE
    version: int
    offset: int
    digest: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Skip:
    """Entries with offsets first .. end - 1 are not learned."""

    kind: ClassVar[Kind] = Kind.SKIP
    first: int
    end: int
    reason: str


@dataclass(frozen=True, slots=True)
class ModelChange:
    """From here on, learning follows `spec`: the whole filled-in spec as JSON, of the same layout."""

    kind: ClassVar[Kind] = Kind.MODEL_CHANGE
    spec: str


@dataclass(frozen=True, slots=True)
class ModelDelete:
    """Last record of a model."""

    kind: ClassVar[Kind] = Kind.MODEL_DELETE


@dataclass(frozen=True, slots=True)
class Claim:
    """A node owns the shard from here on: the first record of an epoch. In chunks of SHARD."""

    kind: ClassVar[Kind] = Kind.CLAIM
    epoch: int  # u64, one higher at each claim, from 1
    node: str  # address of the new owner
    previous: int  # u64, position of the claim before this one; 0 in epoch 1
    nonce: int  # u64, random: no two claimants write the same bytes, also not two of one address


@dataclass(frozen=True, slots=True)
class Stored:
    """Names a blob that was stored before this record, or a fact that the next owner needs. In chunks of SHARD."""

    kind: ClassVar[Kind] = Kind.STORED
    what: str  # such as "version" or "image"
    blob: str  # name of the blob among the shard's; empty: the facts are all
    digest: bytes  # sha256 of the blob, 32 bytes; without a blob, of the facts
    facts: str  # as JSON


@dataclass(frozen=True, slots=True)
class Slice:
    """The model serves a slice of the streams of a model of this name in another shard, and does not learn."""

    kind: ClassVar[Kind] = Kind.SLICE
    index: int  # u32, 0 .. count - 1
    count: int  # u32, slices of the model
    home: int  # u32, number of the model that learns, in its shard


@dataclass(frozen=True, slots=True)
class Gathered:
    """The model learns from slices in other shards: the first `offset` entries of one are before this record."""

    kind: ClassVar[Kind] = Kind.GATHERED
    slice: int  # u32, 0 .. count - 1
    count: int  # u32, slices of the model
    model: int  # u32, number of the slice in its shard; 0: it is not known yet, and nothing is read
    position: int  # u64, of the journal of its shard, which is read up to there
    chain: int  # u32, at that position
    offset: int  # u64, entries of the slice


Record = (
    StreamOpened | Ticks | Label | Window | Reset | StatePut | StateDelete
    | ModelCreate | Paused | Resumed | Swap | Rollback | Promote | Skip | ModelDelete | ModelChange | Claim
    | Stored | Slice | Gathered
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chunk:
    """The records of one model in one group commit."""

    model: int  # u32
    offset: int  # u64: entries of this model journaled before the first of these
    learn_every: int  # u16, >= 1: the learner takes every n-th (R6)
    records: tuple[Record, ...]  # at least one

    @property
    def count(self) -> int:
        """Logical entries: every tick is one, any other record is one."""
        return sum(entries(record) for record in self.records)

    @property
    def end(self) -> int:
        """The logical offset just after the last entry."""
        return self.offset + self.count


def entries(record: Record) -> int:
    """Return the number of logical offsets of the record."""
    return len(record.seq) if isinstance(record, Ticks) else 1


_CHUNK = struct.Struct("<IIQQ")
_RECORD = struct.Struct("<II")

_u32, _u64, _f64, _text, _digest = Unsigned(U32_MAX), Unsigned(U64_MAX), Float(), Text(), Digest()
_row, _rows = Array(np.dtype("<f4"), 1), Array(np.dtype("<f4"), 2)
_u32s, _u64s, _f64s = Array(np.dtype("<u4"), 1), Array(np.dtype("<u8"), 1), Array(np.dtype("<f8"), 1)

_FIELDS: dict[type[Record], tuple[Field, ...]] = {
    StreamOpened: (_u32, _text, _u64),
    Ticks: (_u32s, _u64s, _f64s, _rows),
    Label: (_u32, _u64, _row),
    Window: (_text, _u64, _rows, _rows, _rows, Optional(_row)),
    Reset: (_u32,),
    StatePut: (_u32, _u64, _f64, _row),
    StateDelete: (_u32,),
    ModelCreate: (_text, _text, _text),
    Paused: (),
    Resumed: (),
    Swap: (_u64, _u64, _digest),
    Rollback: (_u64, _u64, _digest, _text),
    Promote: (_u64, _u64, _digest, _text),
    Skip: (_u64, _u64, _text),
    ModelDelete: (),
    ModelChange: (_text,),
    Claim: (_u64, _text, _u64, _u64),
    Stored: (_text, _text, _digest, _text),
    Slice: (_u32, _u32, _u32),
    Gathered: (_u32, _u32, _u32, _u64, _u32, _u64),
}
# A slotted dataclass lists its fields, in order, in __slots__.
_LAYOUT = {cls: tuple(zip(cls.__slots__, fields, strict=True)) for cls, fields in _FIELDS.items()}
_CLASS = {int(cls.kind): cls for cls in _FIELDS}


def encode_record(record: Record) -> bytes:
    """Return the bytes of one record; arrays are copied. Raises RecordError for a value that its field cannot hold."""
    parts = []
    name = ""
    try:
        for name, field in _LAYOUT[type(record)]:
            parts.append(field.encode(getattr(record, name)))
    except (RecordError, TypeError, AttributeError, UnicodeEncodeError, struct.error) as error:
        raise RecordError(f"{type(record).__name__}.{name}: {error}") from error
    _check_lengths(record)
    body = b"".join(parts)
    if len(body) > U32_MAX:
        raise RecordError(f"{type(record).__name__} takes {len(body)} bytes, a record holds at most {U32_MAX}")
    return _RECORD.pack(record.kind, len(body)) + body


def join_chunk(model: int, offset: int, learn_every: int, encoded: Sequence[bytes]) -> bytes:
    """Return the bytes of a chunk of records that `encode_record` has encoded."""
    _check_header(model, offset, learn_every, len(encoded))
    return b"".join((_CHUNK.pack(model, len(encoded), offset, learn_every), *encoded))


def encode_chunk(chunk: Chunk) -> bytes:
    """Return the bytes of a chunk. Raises RecordError for a value that its field cannot hold."""
    return join_chunk(chunk.model, chunk.offset, chunk.learn_every, [encode_record(record) for record in chunk.records])


def decode_chunk(data: bytes) -> Chunk:
    """Return the chunk in `data`. Arrays are read-only, aligned views of `data`, which they keep alive.

    Raises RecordError for anything that `encode_chunk` does not write: unknown kinds, bad lengths, trailing bytes.
    """
    if len(data) < _CHUNK.size:
        raise RecordError(f"a chunk has at least {_CHUNK.size} bytes, got {len(data)}")
    model, count, offset, learn_every = _CHUNK.unpack_from(data)
    _check_header(model, offset, learn_every, count)
    at = _CHUNK.size
    records: list[Record] = []
    while at < len(data) and len(records) < count:
        record, at = _decode_record(data, at)
        records.append(record)
    if len(records) != count or at != len(data):
        raise RecordError(f"chunk of {count} records: {len(records)} found, {len(data) - at} bytes are left")
    return Chunk(model, offset, learn_every, tuple(records))


def chunk_head(data: bytes) -> tuple[int, int]:
    """Return model and offset of an encoded chunk without decoding its records. Raises RecordError if it is cut off."""
    if len(data) < _CHUNK.size:
        raise RecordError(f"a chunk has at least {_CHUNK.size} bytes, got {len(data)}")
    model, _, offset, _ = _CHUNK.unpack_from(data)
    return model, offset


def renumbered(data: bytes, model: int) -> bytes:
    """Return an encoded chunk as that of the model with another number. Raises RecordError for a bad number."""
    _, count, offset, learn_every = _CHUNK.unpack_from(data)
    _check_header(model, offset, learn_every, count)
    return _CHUNK.pack(model, count, offset, learn_every) + data[_CHUNK.size :]


def _decode_record(data: bytes, at: int) -> tuple[Record, int]:
    if at + _RECORD.size > len(data):
        raise RecordError(f"record at byte {at}: its header is cut off")
    kind, size = _RECORD.unpack_from(data, at)
    cls = _CLASS.get(kind)
    if cls is None:
        raise RecordError(f"record at byte {at}: unknown kind {kind}")
    end = at + _RECORD.size + size
    if end > len(data):
        raise RecordError(f"{cls.__name__} at byte {at}: its {size} bytes are cut off")
    cursor = Cursor(data, at + _RECORD.size, end)
    values: list[Any] = []
    try:
        for _, field in _LAYOUT[cls]:
            values.append(field.decode(cursor))
    except (RecordError, UnicodeDecodeError) as error:
        raise RecordError(f"{cls.__name__}.{cls.__slots__[len(values)]} at byte {at}: {error}") from error
    if cursor.at != end:
        raise RecordError(f"{cls.__name__} at byte {at}: {end - cursor.at} bytes after its last field")
    record: Record = cls(*values)
    _check_lengths(record)
    return record, end


def _check_header(model: int, offset: int, learn_every: int, count: int) -> None:
    for name, value, low, high in (
        ("model", model, 0, U32_MAX),
        ("offset", offset, 0, U64_MAX),
        ("learn_every", learn_every, 1, U16_MAX),
        ("record count", count, 1, U32_MAX),
    ):
        if not low <= value <= high:
            raise RecordError(f"chunk: {name} {value} is not in {low}..{high}")


def _check_lengths(record: Record) -> None:
    """Raise RecordError unless the arrays of a record agree on n, T and O."""
    if isinstance(record, Ticks):
        lengths = [len(column) for column in (record.stream, record.seq, record.time, record.x)]
        if len(set(lengths)) != 1:
            raise RecordError(f"Ticks: columns stream, seq, time, x have different lengths {lengths}")
    elif isinstance(record, Window) and not (len(record.x) == len(record.y) and record.y.shape == record.weight.shape):
        shapes = record.x.shape, record.y.shape, record.weight.shape
        raise RecordError(f"Window: expected x (T, C), y and weight (T, O), got shapes {shapes}")
