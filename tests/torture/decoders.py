"""Every decoder of bytes from outside as a function of bytes, with valid messages to start from.

Each function returns whether the bytes are accepted. A refusal with a documented error is no finding; any other
exception is.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError, Message
from safetensors import numpy as safetensors

from freshet.v1 import models_pb2, streams_pb2, training_pb2, types_pb2
from model.foreign.graph import read_graph
from model.foreign.options import Options
from model.foreign.refused import ForeignError
from model.spec import ModelSpec
from service.common.errors import Invalid, Refusal
from service.edge import wire, wire_models
from service.journal.examine import examine
from service.journal.records import (
    SHARD,
    Chunk,
    Claim,
    Gathered,
    Label,
    ModelCreate,
    RecordError,
    Slice,
    StatePut,
    Stored,
    Swap,
    Ticks,
    decode_chunk,
    encode_chunk,
)
from service.journal.records import Window as WindowRecord
from service.journal.segments import COMMIT_FIRST, FORMAT_VERSION, FRAME, HEADER, MAGIC, JournalFormat
from service.learning.labels import Shape, check_label, check_window
from service.programs.foreign.reading import read_source
from service.streams.sequence import check_values
from service.streams.served import ServedModel
from tests.model.foreign_graphs import stacked

SPEC = ModelSpec.from_mapping({"channels": ["a", "b"], "task": "regress", "targets": ["q"], "hidden": 2})


class Decoder(NamedTuple):
    """A decoder and valid messages for it."""

    read: Callable[[bytes], bool]
    sound: list[bytes]


def decoders(folder: Path) -> dict[str, Decoder]:
    """Return all decoders by name. folder: an empty folder for the decoder that reads files."""
    model = ServedModel(1, "default", "m", SPEC)
    shape = Shape.of(model.network)
    return {
        "Open": Decoder(_open, _messages(_OPEN)),
        "Mux": Decoder(_mux, _messages(_MUX)),
        "Learn": Decoder(lambda data: _learn(shape, data), _messages(_LEARN)),
        "Create": Decoder(_create, _messages(_CREATE)),
        "Put": Decoder(lambda data: _put(model, data), _messages(_put_messages(model))),
        "chunk": Decoder(_chunk, _CHUNKS),
        "journal": Decoder(lambda data: _journal(folder, data), [_journal_file(_CHUNKS)]),
        "graph": Decoder(_graph, [stacked("LSTM"), stacked("GRU", "RNN", last=False)]),
        "state_dict": Decoder(lambda data: _state_dict(folder, data), [_state_dict_file()]),
    }


def _messages(messages: list[Message]) -> list[bytes]:
    return [message.SerializeToString() for message in messages]


# ---- the wire

_ROWS = np.arange(6, dtype="<f4")
_OPEN: list[Message] = [
    streams_pb2.OpenRequest(hello=streams_pb2.Hello(model="m", stream="pump-7")),
    streams_pb2.OpenRequest(tick=streams_pb2.Tick(seq=1, x=[1.0, 2.0], time=1.6e9)),
    streams_pb2.OpenRequest(label=streams_pb2.Label(seq=1, y=[0.5])),
    streams_pb2.OpenRequest(reset=streams_pb2.Reset()),
]
_MUX: list[Message] = [
    streams_pb2.MuxRequest(model="m", bind=[streams_pb2.Bind(handle=n, stream=f"s{n}") for n in range(3)]),
    streams_pb2.MuxRequest(
        ticks=streams_pb2.Columns(
            handle=np.arange(3, dtype="<u4").tobytes(), seq=np.ones(3, "<u8").tobytes(), x=_ROWS.tobytes(),
            time=np.full(3, 1.6e9, "<f8").tobytes(),
        )
    ),
]  # fmt: skip
_LEARN: list[Message] = [
    training_pb2.LearnRequest(hello=training_pb2.LearnHello(model="m", source="mill")),
    training_pb2.LearnRequest(label=training_pb2.StreamLabel(stream="pump-7", seq=1, y=[0.5])),
    training_pb2.LearnRequest(
        window=training_pb2.Window(
            window_seq=1, steps=3, x=_ROWS.tobytes(), y=_ROWS[:3].tobytes(), weight=np.ones(3, "<f4").tobytes()
        )
    ),
]
_CREATE: list[Message] = [
    models_pb2.CreateModelRequest(name="m", spec=types_pb2.ModelSpec(channels=["a", "b"], targets=["b"], horizon=3)),
    models_pb2.CreateModelRequest(name="n", spec=wire_models.spec_message(SPEC)),
]


def _put_messages(model: ServedModel) -> list[Message]:
    state = np.zeros(model.network.state_size, "<f4").tobytes()
    return [
        streams_pb2.PutStreamRequest(
            stream=streams_pb2.Stream(model="m", stream="pump-7", last_seq=5, last_time=1.6e9, state=state, epoch=2)
        )
    ]


def _open(data: bytes) -> bool:
    request = streams_pb2.OpenRequest()
    if not _parsed(request, data):
        return False
    kind = request.WhichOneof("message")
    if kind == "tick":
        seq, time, x = wire.tick(request.tick)
        return check_values(seq, x, 2, time, False, np.nan) is None
    if kind == "label":
        seq, y = wire.label(request.label)
        return len(y) == 1
    return kind is not None


def _mux(data: bytes) -> bool:
    request = streams_pb2.MuxRequest()
    if not _parsed(request, data):
        return False
    try:
        columns = wire.columns(request.ticks, 2)
    except Invalid:
        return False
    assert columns.x.shape == (len(columns.seq), 2)
    return bool(len(columns.handle) == len(columns.time))


def _learn(shape: Shape, data: bytes) -> bool:
    request = training_pb2.LearnRequest()
    if not _parsed(request, data):
        return False
    kind = request.WhichOneof("message")
    if kind == "label":
        return check_label(shape, *wire.label(request.label), last_seq=9) is None
    if kind == "window":
        checked = check_window(shape, wire.window(request.window))
        return not isinstance(checked, Refusal) and bool(np.isfinite(checked.x).all())
    return kind is not None


def _create(data: bytes) -> bool:
    request = models_pb2.CreateModelRequest()
    if not _parsed(request, data):
        return False
    try:
        spec = wire_models.spec(request.spec)
    except Invalid:
        return False
    return wire_models.spec(wire_models.spec_message(spec)) == spec or _differs("spec", data)


def _put(model: ServedModel, data: bytes) -> bool:
    request = streams_pb2.PutStreamRequest()
    if not _parsed(request, data):
        return False
    try:
        wire.put_state(request.stream, model)
    except Invalid:
        return False
    return True


def _parsed(message: Message, data: bytes) -> bool:
    try:
        message.ParseFromString(data)
    except DecodeError:
        return False
    return True


# ---- the disk

_CHUNKS = [
    encode_chunk(chunk)
    for chunk in (
        Chunk(1, 0, 1, (ModelCreate("default", "m", "{}"), Swap(1, 0, bytes(32)))),
        Chunk(1, 2, 1, (Ticks(np.full(3, 7, "<u4"), np.arange(3, dtype="<u8"), np.zeros(3), _ROWS.reshape(3, 2)),)),
        Chunk(1, 5, 4, (Label(7, 1, _ROWS[:1]), StatePut(7, 3, np.nan, _ROWS))),
        Chunk(1, 7, 1, (WindowRecord("mill", 1, _ROWS.reshape(3, 2), _ROWS[:3, None], _ROWS[:3, None], None),)),
        Chunk(SHARD, 0, 1, (Claim(1, "127.0.0.1:50051", 0, 7), Stored("version", "", bytes(32), "{}"))),
        Chunk(2, 0, 1, (Slice(1, 3, 1), Gathered(1, 3, 2, 640, 77, 12))),
    )
]


def _journal_file(payloads: list[bytes]) -> bytes:
    """Return a journal of one segment with these chunks, one commit each."""
    header = HEADER.pack(MAGIC, FORMAT_VERSION, 0, 0, 0)[:-4]
    parts, chain = [header, struct.pack("<I", zlib.crc32(header))], 0
    for payload in payloads:
        word = struct.pack("<I", COMMIT_FIRST + len(payload))
        chain = zlib.crc32(payload, zlib.crc32(word, chain))
        parts += [FRAME.pack(COMMIT_FIRST + len(payload), chain), payload]
    return b"".join(parts)


def _chunk(data: bytes) -> bool:
    try:
        chunk = decode_chunk(data)
    except RecordError:
        return False
    return encode_chunk(chunk) == data or _differs("chunk", data)


def _journal(folder: Path, data: bytes) -> bool:
    (folder / f"{0:020d}.journal").write_bytes(data)
    try:
        found = examine(folder)
    except JournalFormat:
        return False
    return found.damage is None and not found.torn_bytes


def _differs(what: str, data: bytes) -> bool:
    raise AssertionError(f"an accepted {what} changes when it is encoded again: {data.hex()}")


# ---- files of other frameworks


def _graph(data: bytes) -> bool:
    try:
        read_graph(data)
    except ForeignError:
        return False
    return True


_NAMED = Options(cell="lstm", layers=("rnn.*_l0",), head="head.*")


def _state_dict_file() -> bytes:
    shapes = {"rnn.weight_ih_l0": (8, 3), "rnn.weight_hh_l0": (8, 2), "head.weight": (1, 2), "head.bias": (1,)}
    shapes |= {"rnn.bias_ih_l0": (8,), "rnn.bias_hh_l0": (8,)}
    data: bytes = safetensors.save({name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    return data


def _state_dict(folder: Path, data: bytes) -> bool:
    file = folder / "net.safetensors"
    file.write_bytes(data)
    try:
        read_source(file, _NAMED)
    except Invalid:
        return False
    return True
