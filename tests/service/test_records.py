"""Every record kind survives its bytes; nothing else decodes.

`REGENERATE_GOLDEN=1 pytest …` rewrites the golden files, after a deliberate change of the format version.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.journal.records import (
    Chunk,
    Claim,
    Gathered,
    Kind,
    Label,
    ModelChange,
    ModelCreate,
    ModelDelete,
    Paused,
    Promote,
    Record,
    RecordError,
    Reset,
    Resumed,
    Rollback,
    Skip,
    Slice,
    StateDelete,
    StatePut,
    Stored,
    StreamOpened,
    Swap,
    Ticks,
    Window,
    decode_chunk,
    encode_chunk,
)
from tests.conftest import examples

GOLDEN = Path(__file__).parent / "golden"


def f32(*shape: int) -> np.ndarray:
    return (np.arange(np.prod(shape), dtype=np.float32) / 8 - 1).reshape(shape)


DOUBLES: Any = np.zeros(2)  # of another type than a record's
EXAMPLES: dict[Kind, Record] = {
    Kind.STREAM: StreamOpened(3, "pump-7 ü", 2),
    Kind.TICK: Ticks(
        np.array([3, 4, 3], np.uint32),
        np.array([1, 2**63, 2], np.uint64),
        np.array([1.5e9, np.nan, 0.0]),
        f32(3, 5),
    ),
    Kind.LABEL: Label(3, 9, f32(3)),
    Kind.WINDOW: Window("batch-1", 7, f32(4, 2), f32(4, 3), np.ones((4, 3), np.float32), f32(6)),
    Kind.RESET: Reset(3),
    Kind.STATE_PUT: StatePut(3, 11, float("nan"), f32(7)),
    Kind.STATE_DELETE: StateDelete(3),
    Kind.MODEL_CREATE: ModelCreate("acme", "flow", '{"channels": ["x"]}'),
    Kind.PAUSE: Paused(),
    Kind.RESUME: Resumed(),
    Kind.SWAP: Swap(4, 1000, bytes(range(32))),
    Kind.ROLLBACK: Rollback(2, 500, bytes(range(32)), "worse than the anchor"),
    Kind.PROMOTE: Promote(3, 700, bytes(range(32)), "by hand"),
    Kind.SKIP: Skip(10, 20, "the trainer died three times at offset 10"),
    Kind.MODEL_DELETE: ModelDelete(),
    Kind.MODEL_CHANGE: ModelChange('{"channels": ["x"], "clip": 2.0}'),
    Kind.CLAIM: Claim(3, "10.0.0.7:50051", 2**40, 2**64 - 1),
    Kind.STORED: Stored("version", "0000000003-" + "ab" * 32, bytes(range(32)), '{"model": 1, "number": 2}'),
    Kind.SLICE: Slice(2, 4, 17),
    Kind.GATHERED: Gathered(2, 4, 9, 2**40, 2**32 - 1, 2**33),
}


def changed(kind: Kind, **values: Any) -> Any:
    """The example with other values."""
    return dataclasses.replace(EXAMPLES[kind], **values)


def golden_chunk(kind: Kind) -> Chunk:
    return Chunk(model=5, offset=2**40, learn_every=3, records=(EXAMPLES[kind],))


def same_bits(left: object, right: object) -> bool:
    """Equal in type, shape and every bit, field by field: an oracle that knows nothing of the encoding."""
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())
    if dataclasses.is_dataclass(left) and type(left) is type(right):
        return all(same_bits(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left))
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(same_bits, left, right))
    if isinstance(left, float) and isinstance(right, float):
        return np.float64(left).tobytes() == np.float64(right).tobytes()
    return type(left) is type(right) and left == right


u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
sizes = st.integers(1, 5)
digests = st.binary(min_size=32, max_size=32)


def floats(dtype: type, *shape: int) -> st.SearchStrategy[np.ndarray]:
    """Any bits at all, so that NaN payloads and denormals are among them."""
    bits = np.uint32 if dtype is np.float32 else np.uint64
    return hnp.arrays(bits, shape).map(lambda a: a.view(dtype))


rows = sizes.flatmap(lambda n: floats(np.float32, n))
ticks = st.tuples(sizes, sizes).flatmap(
    lambda nc: st.builds(
        Ticks,
        hnp.arrays(np.uint32, nc[0]),
        hnp.arrays(np.uint64, nc[0]),
        floats(np.float64, nc[0]),
        floats(np.float32, *nc),
    )
)
windows = st.tuples(sizes, sizes, sizes).flatmap(
    lambda tco: st.builds(
        Window,
        st.text(max_size=9),
        u64,
        floats(np.float32, tco[0], tco[1]),
        floats(np.float32, tco[0], tco[2]),
        floats(np.float32, tco[0], tco[2]),
        st.none() | rows,
    )
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
records = st.one_of(
    ticks,
    windows,
    st.builds(StreamOpened, u32, texts, u64),
    st.builds(Label, u32, u64, rows),
    st.builds(Reset, u32),
    st.builds(StatePut, u32, u64, st.floats(), rows),
    st.builds(StateDelete, u32),
    st.builds(ModelCreate, texts, texts, texts),
    st.just(Paused()),
    st.just(Resumed()),
    st.builds(Swap, u64, u64, digests),
    st.builds(Rollback, u64, u64, digests, texts),
    st.builds(Promote, u64, u64, digests, texts),
    st.builds(Skip, u64, u64, texts),
    st.just(ModelDelete()),
    st.builds(ModelChange, texts),
    st.builds(Claim, u64, texts, u64, u64),
    st.builds(Stored, texts, texts, digests, texts),
    st.builds(Slice, u32, u32, u32),
    st.builds(Gathered, u32, u32, u32, u64, u32, u64),
)
chunks = st.builds(
    Chunk, u32, st.integers(0, 2**63), st.integers(1, 2**16 - 1), st.lists(records, min_size=1, max_size=4).map(tuple)
)


@given(chunks)
def test_a_chunk_comes_back_bit_for_bit(chunk):
    assert same_bits(decode_chunk(encode_chunk(chunk)), chunk)


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name.lower())
def test_the_format_on_disk_is_the_one_in_the_golden_file(kind):
    path = GOLDEN / f"{kind:02d}_{kind.name.lower()}.bin"
    if os.environ.get("REGENERATE_GOLDEN"):
        path.write_bytes(encode_chunk(golden_chunk(kind)))

    stored = path.read_bytes()

    assert encode_chunk(golden_chunk(kind)) == stored
    assert same_bits(decode_chunk(stored), golden_chunk(kind))


def test_ticks_count_each_and_other_records_one():
    chunk = Chunk(1, 100, 1, (EXAMPLES[Kind.TICK], EXAMPLES[Kind.LABEL], EXAMPLES[Kind.PAUSE]))

    assert (chunk.count, chunk.end) == (3 + 1 + 1, 105)


def test_decoded_arrays_are_aligned_and_read_only():
    record = decode_chunk(encode_chunk(golden_chunk(Kind.TICK))).records[0]
    assert isinstance(record, Ticks)

    columns: list[np.ndarray] = [record.stream, record.seq, record.time, record.x]
    for column in columns:
        assert column.flags.aligned
        assert not column.flags.writeable


@examples(300)
@given(chunks, st.data())
def test_changed_bytes_are_refused_or_mean_exactly_what_they_say(chunk, data):
    encoded = bytearray(encode_chunk(chunk))
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))

    try:
        decoded = decode_chunk(bytes(encoded))
    except RecordError:
        return
    assert encode_chunk(decoded) == encoded


@given(st.binary(max_size=200))
def test_any_bytes_at_all_are_refused_or_mean_exactly_what_they_say(data):
    try:
        decoded = decode_chunk(data)
    except RecordError:
        return
    assert encode_chunk(decoded) == data


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name.lower())
def test_a_chunk_cut_short_or_continued_is_refused(kind):
    encoded = encode_chunk(golden_chunk(kind))

    for damaged in [encoded[:n] for n in range(len(encoded))] + [encoded + b"\0", encoded + encoded]:
        with pytest.raises(RecordError):
            decode_chunk(damaged)


def test_an_unknown_kind_is_refused_by_number():
    encoded = bytearray(encode_chunk(golden_chunk(Kind.PAUSE)))
    encoded[24] = 99

    with pytest.raises(RecordError, match="unknown kind 99"):
        decode_chunk(bytes(encoded))


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (Reset(2**32), r"Reset\.stream: 4294967296 is not in 0\.\.4294967295"),
        (Label(1, -1, f32(2)), r"Label\.seq: -1"),
        (Label(1, 1, DOUBLES), r"Label\.y: expected a non-empty 1-d float32 array, got float64"),
        (Label(1, 1, f32(0)), r"Label\.y: expected a non-empty"),
        (Swap(1, 1, b"short"), r"Swap\.digest: .* 32 bytes, got 5"),
        (StreamOpened(1, "\ud800", 1), r"StreamOpened\.id"),
        (changed(Kind.TICK, seq=np.ones(2, np.uint64)), r"different lengths \[3, 2, 3, 3\]"),
        (changed(Kind.WINDOW, weight=f32(4, 1)), r"\(4, 2\), \(4, 3\), \(4, 1\)"),
    ],
)
def test_a_value_that_its_field_cannot_hold_is_refused_by_name(record, words):
    with pytest.raises(RecordError, match=words):
        encode_chunk(Chunk(1, 0, 1, (record,)))


@pytest.mark.parametrize("change", [{"learn_every": 0}, {"learn_every": 2**16}, {"model": -1}, {"records": ()}])
def test_a_chunk_header_out_of_range_is_refused(change):
    with pytest.raises(RecordError, match=r"chunk: .* is not in"):
        encode_chunk(dataclasses.replace(golden_chunk(Kind.PAUSE), **change))
