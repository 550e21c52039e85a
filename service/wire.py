"""Protobuf ↔ plain values: the only reader of message fields. Everything a client sent is checked here or refused."""

from __future__ import annotations

import math
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freshet.v1 import models_pb2, streams_pb2, training_pb2, types_pb2
from model.spec import ModelSpec, SpecError
from service.answers import Answer
from service.errors import Invalid, Refusal
from service.events import Event
from service.labels import RawWindow
from service.sessions import Sessions
from service.storage.versions import Version

Array = NDArray[np.float32]
NARROW = 50  # values: up to here an array is made faster by way of a list than of the field itself


def spec(message: types_pb2.ModelSpec) -> ModelSpec:
    """A spec message as a spec; fields left out take their defaults. Raises Invalid."""
    values: dict[str, Any] = {}
    for field, value in message.ListFields():
        values[field.name] = list(value) if field.is_repeated else value
    try:
        return ModelSpec.from_mapping(values)
    except SpecError as error:
        raise Invalid(f"spec.{error.field}", error.value, error.remedy) from error


def spec_message(spec: ModelSpec) -> types_pb2.ModelSpec:
    """A spec as a message, every field filled in."""
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
    )


def model_message(model: Sessions, offset: int) -> models_pb2.Model:
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
        model=event.model,
        kind=event.kind,  # type: ignore[arg-type]  # numbered alike
        offset=event.offset,
        version=event.version,
        reason=event.reason,
        numbers=dict(event.numbers),
        time=event.time,
    )
