"""Protobuf ↔ plain values of streams and labels. Every field that a client sent is checked here or refused.

This module and `wire_models` are the only readers of message fields.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from freshet.v1 import streams_pb2, training_pb2, types_pb2
from model.fold.errors import MEANS, kept_steps, ratios
from service.common.errors import Invalid, Refusal
from service.common.limits import MAX_TIME_S
from service.learning.labels import RawWindow
from service.storage.states import StreamRow
from service.streams.answers import Answer
from service.streams.served import ServedModel
from service.trainer.quarantine import NO_STREAM, Item

Array = NDArray[np.float32]
MAX_COUNT = 2**62  # the largest last_seq or epoch of a stream that is put: counting on from it cannot overflow
NARROW = 50  # values: up to this many, converting a list is faster than converting the message field
MAX_DIGITS = 10  # of a stream number
NOTHING = np.zeros(0, np.float32)
_SMALL = [bytes([value]) for value in range(0x80)]


def tick(message: streams_pb2.Tick) -> tuple[int, float, Array]:
    """Return a tick's seq, event time (NaN: none) and x. Values beyond float32 become infinite, to be refused."""
    time, x = message.time if message.HasField("time") else math.nan, message.x
    return message.seq, time, np.array(x[:] if len(x) <= NARROW else x, np.float32)


def known(message: streams_pb2.Tick) -> Array:
    """Return a tick's known inputs, empty if there are none. Values beyond float32 become infinite, to be refused."""
    if not message.u:
        return NOTHING
    return np.array(message.u if len(message.u) > NARROW else message.u[:], np.float32)


def forecast(answer: Answer, outputs: int, durable_seq: int = 0) -> bytes:
    """Return an answer of a model with O outputs as an OpenResponse, serialised. durable_seq: see the proto; 0: none.

    Its values are bytes already, in the form of a packed repeated float: written so, a message costs half as much as
    one built field by field. `tests/contracts/test_wire_bytes.py` compares with protobuf's own bytes.
    """
    seq, _, _, y, version, judged = answer
    end = 4 * outputs
    # Written out field by field: a function per field costs as much as all of this.
    body = b"\x08" + varint(seq) if seq else b""
    if end:
        body += b"\x12" + varint(end) + y[:end]
    if version:
        body += b"\x18" + varint(version)
    if judged:
        body += b"\x20" + varint(judged)
    if len(y) > end:
        upper = 4 * first_upper(len(y) // 4, outputs)
        body += b"\x2a" + varint(upper - end) + y[end:upper] + b"\x32" + varint(len(y) - upper) + y[upper:]
    if durable_seq:
        body += b"\x38" + varint(durable_seq)
    return b"\x12" + varint(len(body)) + body


def varint(value: int) -> bytes:
    """Return a number from 0 to 2**64 - 1 in protobuf's base 128."""
    if value < 0x80:
        return _SMALL[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def uint(tag: bytes, value: int) -> bytes:
    """Return a field that holds a number; nothing for 0."""
    return tag + varint(value) if value else b""


def packed(tag: bytes, values: bytes) -> bytes:
    """Return a field that holds bytes, text, packed values or a message; nothing without any."""
    return tag + varint(len(values)) + values if values else b""


def first_upper(values: int, outputs: int) -> int:
    """Return the place of the first upper bound in an answer: forecasts, lower bounds, upper bounds (`intervals`)."""
    return (values + outputs) // 2


class Columns(NamedTuple):
    """Packed ticks: (n,) each, x (n, C), u (n, known); time NaN where none was sent. Views of the message."""

    handle: NDArray[np.uint32]
    seq: NDArray[np.uint64]
    x: Array
    time: NDArray[np.float64]
    u: Array = np.zeros((0, 0), np.float32)


def columns(message: streams_pb2.Columns, channels: int, known: int = 0, holds: bool = False) -> Columns:
    """Return packed ticks. Raises Invalid where the columns differ in length.

    known: values of u per tick. holds: u may be empty, its values are then missing, NaN.
    """
    # Each read of a field is a copy of it.
    handle, seq, x, time, u = message.handle, message.seq, message.x, message.time, message.u
    n, rest = divmod(len(handle), 4)
    if rest:
        raise Invalid("ticks.handle", f"{len(handle)} bytes", "send 4 bytes per tick: little-endian uint32")
    for field, data, width, may_be_empty in (
        ("seq", seq, 8, False),
        ("x", x, 4 * channels, False),
        ("time", time, 8, True),
        ("u", u, 4 * known, holds),
    ):
        if len(data) != n * width and (data or not may_be_empty):
            remedy = f"{n} handles need {n * width} bytes, {width} per tick, little-endian"
            raise Invalid(f"ticks.{field}", f"{len(data)} bytes", remedy)
    return Columns(
        np.frombuffer(handle, "<u4"),
        np.frombuffer(seq, "<u8"),
        np.frombuffer(x, "<f4").reshape(n, channels),
        np.frombuffer(time, "<f8") if time else np.full(n, np.nan),
        np.frombuffer(u, "<f4").reshape(n, known) if u else np.full((n, known), np.nan, np.float32),
    )


def forecasts(handle: Any, seq: Any, answers: Any, judged: Any, version: int, outputs: int) -> streams_pb2.Forecasts:
    """Return packed forecasts of a model with O outputs. handle, seq, judged: (n,); answers: (n, A)."""
    upper = first_upper(answers.shape[1], outputs)
    return streams_pb2.Forecasts(
        handle=_bytes(handle, "<u4"),
        seq=_bytes(seq, "<u8"),
        y=_bytes(answers[:, :outputs], "<f4"),
        judged_through=_bytes(judged, "<u8"),
        version=version,
        lower=_bytes(answers[:, outputs:upper], "<f4"),
        upper=_bytes(answers[:, upper:], "<f4"),
    )


def _bytes(values: NDArray[Any], kind: str) -> bytes:
    return values.astype(kind, copy=False).tobytes()


def forecasts_again(handle: int, answer: Answer, outputs: int) -> streams_pb2.Forecasts:
    """Return one kept answer as packed forecasts."""
    handles, seqs, judged = np.array([handle]), np.array([answer.seq]), np.array([answer.judged_through])
    return forecasts(handles, seqs, np.frombuffer(answer.y, "<f4")[None], judged, answer.version, outputs)


def durable_columns(handle: Any, seq: Any) -> streams_pb2.DurableColumns:
    """Return the durable seqs of handles as packed columns. handle, seq: (n,)."""
    return streams_pb2.DurableColumns(handle=_bytes(handle, "<u4"), seq=_bytes(seq, "<u8"))


def event_time(last_time: float) -> float | None:
    """Return a stream's last event time for a message: None instead of NaN."""
    return None if math.isnan(last_time) else last_time


def stream_message(model: ServedModel, row: StreamRow, durable_seq: int, with_state: bool) -> streams_pb2.Stream:
    """Return a stream as a message; state: only if `with_state`."""
    return streams_pb2.Stream(
        model=model.name,
        stream=row.id,
        last_seq=row.last_seq,
        durable_seq=durable_seq,
        last_time=event_time(row.last_time),
        state_origin=row.origin,  # type: ignore[arg-type]  # numbered alike
        state=row.state if with_state else b"",
        epoch=row.epoch,
        version=model.champion,
        judged_through=row.last_seq if row.last_offset <= model.judged_offset else row.judged,
        state_bytes=4 * model.network.state_size,
    )


class PutState(NamedTuple):
    """A stream's state as a client sends it."""

    id: str
    last_seq: int
    last_time: float  # NaN: none
    state: Array  # (S,), a view of the message
    epoch: int


def put_state(message: streams_pb2.Stream, model: ServedModel) -> PutState:
    """Return a stream to put. Raises Invalid for a state that this model cannot have."""
    size = model.network.state_size
    if len(message.state) != 4 * size:
        remedy = f"a state of model {model.name} has {4 * size} bytes: {size} little-endian float32"
        raise Invalid("stream.state", f"{len(message.state)} bytes", remedy)
    state = np.frombuffer(message.state, "<f4")
    if found := model.network.problem(state):
        at, remedy = found
        raise Invalid(f"stream.state[{at}]", f"{state[at]}", remedy)
    time = message.last_time if message.HasField("last_time") else math.nan
    if math.isinf(time) or abs(time) > MAX_TIME_S:
        raise Invalid("stream.last_time", time, "give seconds since 1970-01-01 UTC")
    for field in ("last_seq", "epoch"):
        if getattr(message, field) > MAX_COUNT:
            raise Invalid(f"stream.{field}", getattr(message, field), f"give at most {MAX_COUNT}")
    return PutState(message.stream, message.last_seq, time, state, message.epoch)


def label(message: streams_pb2.Label | training_pb2.StreamLabel) -> tuple[int, Array]:
    """Return a label's seq and values. Values beyond float32 become infinite, to be refused."""
    return message.seq, np.array(message.y if len(message.y) > NARROW else message.y[:], np.float32)


def window(message: training_pb2.Window) -> RawWindow:
    """Return a window, unchecked."""
    return RawWindow(message.window_seq, message.steps, message.x, message.y, message.weight, message.initial_state)


def refused(refusal: Refusal) -> streams_pb2.OpenResponse:
    """Return a refusal as a message of Open."""
    return streams_pb2.OpenResponse(refused=refusal_message(refusal))


def refusal_message(refusal: Refusal) -> types_pb2.Refused:
    """Return a refusal as a message."""
    return types_pb2.Refused(
        seq=refusal.seq,
        field=refusal.field,
        value=refusal.value,
        remedy=refusal.remedy,
        reason=refusal.reason.value,  # type: ignore[arg-type]  # numbered alike
        item=refusal.item,
        retry_s=refusal.retry_s,
    )


def quarantined_message(item: Item, stream: str) -> training_pb2.Quarantined:
    """Return a quarantined item as a message. stream: the stream id of a label; empty for a window."""
    message = training_pb2.Quarantined(id=item.id, offset=item.offset, reason=item.reason)
    if item.stream == NO_STREAM:
        message.source, message.window_seq = item.source, item.seq
    else:
        message.stream, message.seq = stream, item.seq
        message.y.extend(array("f", item.y))
    return message


def after(token: str) -> int:
    """Return the stream number in a page token of Errors; 0 for an empty one. Raises Invalid for any other token."""
    if token and not (token.isascii() and token.isdigit() and len(token) <= MAX_DIGITS):
        raise Invalid("page_token", token, "give the next_page_token of the page before, or none")
    return int(token or 0)


def error_steps(steps: Iterable[int], rows: NDArray[np.floating[Any]]) -> list[streams_pb2.StepErrors]:
    """Return the errors of steps ahead with labels. rows: [steps, QUANTITIES], see `model.fold.errors`."""
    return [
        streams_pb2.StepErrors(
            step=step, labels=int(row[0]), recent=_means(row[1 : 1 + MEANS]), total=_means(row[-MEANS:])
        )
        for step, row in zip(steps, rows.astype(np.float64), strict=True)
        if row[0]
    ]


def stream_errors(id: str, horizon: int, rows: NDArray[np.float32]) -> streams_pb2.StreamErrors:
    """Return the errors of one stream. rows: [kept steps, QUANTITIES]."""
    ratio = float(ratios(rows[None])[0])
    shown = None if math.isnan(ratio) else ratio
    return streams_pb2.StreamErrors(stream=id, ratio=shown, steps=error_steps(kept_steps(horizon), rows))


def _means(values: NDArray[np.float64]) -> streams_pb2.MeanErrors:
    scaled, raw = values[:4].tolist(), values[4:].tolist()
    return streams_pb2.MeanErrors(
        scaled_squared=scaled[0], scaled_absolute=scaled[1],
        persistence_scaled_squared=scaled[2], persistence_scaled_absolute=scaled[3],
        squared=raw[0], absolute=raw[1], persistence_squared=raw[2], persistence_absolute=raw[3],
    )  # fmt: skip
