"""Protobuf ↔ plain values: the only reader of message fields. Everything a client sent is checked here or refused."""

from __future__ import annotations

import functools
import math
from array import array
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.unknown_fields import UnknownFieldSet
from numpy.typing import NDArray

from freshet.v1 import models_pb2, streams_pb2, training_pb2, types_pb2
from model.spec import MAX_CHANNELS, ModelSpec, SpecError
from service.common.errors import Invalid, Refusal
from service.common.limits import MAX_TIME_S
from service.learning.labels import RawWindow
from service.observe.declaring import STALENESS
from service.observe.events import Event
from service.observe.metrics import ModelMetrics
from service.storage.states import StreamRow
from service.storage.versions import Version
from service.streams.answers import Answer
from service.streams.sessions import ServedModel
from service.trainer.quarantine import NO_STREAM, Item

Array = NDArray[np.float32]
MAX_COUNT = 2**62  # of ticks and owners of a stream that is put: some room is left to count on
SPECS_KEPT = 128  # as messages
NARROW = 50  # values: up to here an array is made faster by way of a list than of the field itself


def spec(message: types_pb2.ModelSpec) -> ModelSpec:
    """A spec message as a spec; fields left out take their defaults. Raises Invalid, also for fields that are not ours:
    whoever set one would otherwise believe that it counts."""
    unknown = UnknownFieldSet(message)
    if len(unknown):
        last = max(field.number for field in message.DESCRIPTOR.fields)
        remedy = f"this server knows fields 1 to {last}, of their own types: leave it out, or upgrade the server"
        raise Invalid("spec", f"field number {unknown[0].field_number}", remedy)
    values: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING and field.is_repeated and len(value) > MAX_CHANNELS:
            raise Invalid(f"spec.{field.name}", f"{len(value)} names", f"give at most {MAX_CHANNELS} names")
        values[field.name] = list(value) if field.is_repeated else value
    try:
        return ModelSpec.from_mapping(values)
    except SpecError as error:
        raise Invalid(f"spec.{error.field}", error.value, error.remedy) from error


@functools.lru_cache(maxsize=SPECS_KEPT)
def spec_message(spec: ModelSpec) -> types_pb2.ModelSpec:
    """A spec as a message, every field filled in: to be put into others, not to be changed. Made once, as every Welcome
    holds one, and there may be thousands of names in it."""
    return types_pb2.ModelSpec(**spec.to_mapping())


def tick(message: streams_pb2.Tick) -> tuple[int, float, Array]:
    """A tick's seq, event time (NaN: none) and values. Values beyond float32 arrive infinite: refused as such."""
    time = message.time if message.HasField("time") else math.nan
    x = message.x if len(message.x) > NARROW else message.x[:]
    return message.seq, time, np.array(x, np.float32)


def forecast(answer: Answer) -> streams_pb2.OpenResponse:
    """A forecast as a stream message."""
    message = streams_pb2.OpenResponse()
    said = message.forecast
    said.seq, said.version, said.judged_through = answer.seq, answer.version, answer.judged_through
    said.y.extend(array("f", answer.y))
    return message


class Columns(NamedTuple):
    """Packed ticks: (n,) each, x [n, C]; time NaN where none was sent. Views of the message."""

    handle: NDArray[np.uint32]
    seq: NDArray[np.uint64]
    x: Array
    time: NDArray[np.float64]


def columns(message: streams_pb2.Columns, channels: int) -> Columns:
    """Packed ticks. Raises Invalid where the columns do not agree about how many there are."""
    n, rest = divmod(len(message.handle), 4)
    if rest:
        raise Invalid("ticks.handle", f"{len(message.handle)} bytes", "send 4 bytes per tick: little-endian uint32")
    for field, data, width in (("seq", message.seq, 8), ("x", message.x, 4 * channels), ("time", message.time, 8)):
        if len(data) != n * width and (field != "time" or data):
            remedy = f"{n} handles need {n * width} bytes, {width} per tick, little-endian"
            raise Invalid(f"ticks.{field}", f"{len(data)} bytes", remedy)
    return Columns(
        np.frombuffer(message.handle, "<u4"),
        np.frombuffer(message.seq, "<u8"),
        np.frombuffer(message.x, "<f4").reshape(n, channels),
        np.frombuffer(message.time, "<f8") if message.time else np.full(n, np.nan),
    )


def forecasts(handle: Any, seq: Any, y: Any, judged: Any, version: int) -> streams_pb2.Forecasts:
    """Packed forecasts: handle, seq, judged (n,), y [n, O]."""
    return streams_pb2.Forecasts(
        handle=handle.astype("<u4").tobytes(),
        seq=seq.astype("<u8").tobytes(),
        y=y.astype("<f4").tobytes(),
        judged_through=judged.astype("<u8").tobytes(),
        version=version,
    )


def forecasts_again(handle: int, answer: Answer) -> streams_pb2.Forecasts:
    """One kept answer, packed."""
    handles, seqs, judged = np.array([handle]), np.array([answer.seq]), np.array([answer.judged_through])
    return forecasts(handles, seqs, np.frombuffer(answer.y, "<f4"), judged, answer.version)


def durable_columns(handle: Any, seq: Any) -> streams_pb2.DurableColumns:
    """Packed durable seqs of handles, (n,) each."""
    return streams_pb2.DurableColumns(handle=handle.astype("<u4").tobytes(), seq=seq.astype("<u8").tobytes())


def event_time(last_time: float) -> float | None:
    """A stream's last event time as messages have it: absent where there is none."""
    return None if math.isnan(last_time) else last_time


def stream_message(model: ServedModel, row: StreamRow, durable_seq: int, with_state: bool) -> streams_pb2.Stream:
    """What is told of a stream."""
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
    """A stream's state as a client puts it."""

    id: str
    last_seq: int
    last_time: float  # NaN: none
    state: Array  # [S], a view of the message
    epoch: int


def put_state(message: streams_pb2.Stream, model: ServedModel) -> PutState:
    """A stream to put. Raises Invalid for a state that is not one of this model."""
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
    """A label's seq and values. Values beyond float32 arrive infinite: refused as such."""
    return message.seq, np.array(message.y if len(message.y) > NARROW else message.y[:], np.float32)


def window(message: training_pb2.Window) -> RawWindow:
    """A window as it came."""
    return RawWindow(message.window_seq, message.steps, message.x, message.y, message.weight, message.initial_state)


def refused(refusal: Refusal) -> streams_pb2.OpenResponse:
    """A refusal as a stream message."""
    return streams_pb2.OpenResponse(refused=refusal_message(refusal))


def refusal_message(refusal: Refusal) -> types_pb2.Refused:
    """A refusal."""
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
    """What is told of an item of a quarantine; stream: the id of a label's, empty for a window."""
    message = training_pb2.Quarantined(id=item.id, offset=item.offset, reason=item.reason)
    if item.stream == NO_STREAM:
        message.source, message.window_seq = item.source, item.seq
    else:
        message.stream, message.seq = stream, item.seq
        message.y.extend(array("f", item.y))
    return message


def model_message(model: ServedModel, offset: int, metrics: ModelMetrics) -> models_pb2.Model:
    """What is told of a model; offset: its journal entries."""
    return models_pb2.Model(
        name=model.name,
        spec=spec_message(model.spec),
        champion=model.champion,
        anchor=model.anchor,
        paused=model.paused,
        streams=model.known,
        offset=offset,
        judged_offset=model.judged_offset,
        report=report_message(metrics),
    )


def report_message(metrics: ModelMetrics) -> models_pb2.ModelReport:
    """How a model does."""
    counted = metrics.counted()
    return models_pb2.ModelReport(
        loss=metrics.learner.loss,
        persistence_loss=metrics.learner.persistence,
        ticks=counted.ticks,
        learned_labels=counted.learned,
        backlog=counted.backlog,
        learn_every=counted.learn_every,
        streams_open=counted.streams_open,
        published=counted.published,
        vetoed=counted.vetoed,
        rolled_back=counted.rolled_back,
        published_time=counted.published_time,
        staleness_counts=accumulate(counted.staleness),
        staleness_bounds=STALENESS,
        unjudged_seconds=counted.unjudged_seconds,
    )


def version_message(version: Version) -> models_pb2.Version:
    """What is told of a version."""
    return models_pb2.Version(
        number=version.number,
        parent=version.parent,
        offset=version.offset,
        digest=version.digest,
        created=version.created,
        loss=version.loss,
        anchor_loss=version.anchor_loss,
        parity_error=version.parity_error,
    )


def event_message(event: Event) -> models_pb2.ModelEvent:
    """An event as a watch message."""
    return models_pb2.ModelEvent(
        model=event.key.name,
        kind=event.kind,  # type: ignore[arg-type]  # numbered alike
        offset=event.offset,
        version=event.version,
        reason=event.reason,
        numbers=dict(event.numbers),
        time=event.time,
    )
