"""Protobuf ↔ plain values of models: specs, versions, reports, events."""

from __future__ import annotations

import functools
from itertools import accumulate
from typing import Any

from google.protobuf.unknown_fields import UnknownFieldSet

from freshet.v1 import models_pb2, types_pb2
from model.spec import DEFAULTS, MAX_CHANNELS, ModelSpec, SpecError
from service.common.errors import Invalid
from service.common.zones import resolved
from service.observe.declaring import STALENESS
from service.observe.events import Event
from service.observe.metrics import ModelMetrics
from service.storage.versions import Version
from service.streams.served import ServedModel

SPECS_KEPT = 128  # messages of specs that are cached


def spec(message: types_pb2.ModelSpec) -> ModelSpec:
    """Return a message's spec; missing fields take their defaults.

    The name of a zone becomes its rule, which is read from a file.

    Raises Invalid, also for unknown fields: the client would believe that they take effect.
    """
    values = spec_values(message, "spec")
    try:
        return ModelSpec.from_mapping(resolved(values))
    except SpecError as error:
        raise Invalid(f"spec.{error.field}", error.value, error.remedy) from error


def changes(request: models_pb2.UpdateModelRequest) -> dict[str, Any]:
    """Return the values of a request by key, with the defaults of the keys that are to return to them.

    Raises Invalid for unknown fields, and for a key in both.
    """
    values = spec_values(request.changes, "changes")
    for name in request.defaults:
        if name in values:
            raise Invalid("defaults", name, "it is in changes too: leave it out of one")
        if name not in DEFAULTS:
            raise Invalid("defaults", name, f"a running model takes {', '.join(DEFAULTS)}")
    return values | {name: DEFAULTS[name] for name in request.defaults}


def spec_values(message: types_pb2.ModelSpec, where: str) -> dict[str, Any]:
    """Return the fields that a message sets, by name. where: the field of the request that holds the message."""
    unknown = UnknownFieldSet(message)
    if len(unknown):
        last = max(field.number for field in message.DESCRIPTOR.fields)
        remedy = f"this server knows fields 1 to {last}, of their own types: leave it out, or upgrade the server"
        raise Invalid(where, f"field number {unknown[0].field_number}", remedy)
    values: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING and field.is_repeated and len(value) > MAX_CHANNELS:
            raise Invalid(f"{where}.{field.name}", f"{len(value)} names", f"give at most {MAX_CHANNELS} names")
        values[field.name] = list(value) if field.is_repeated else value
    return values


@functools.lru_cache(maxsize=SPECS_KEPT)
def spec_message(spec: ModelSpec) -> types_pb2.ModelSpec:
    """Return a spec as a message with every field set. Shared: callers must not change it.

    Cached, because every Welcome holds one and it may list thousands of names.
    """
    return types_pb2.ModelSpec(**spec.to_mapping())


def model_message(model: ServedModel, source: ServedModel, offset: int, metrics: ModelMetrics) -> models_pb2.Model:
    """Return a model as a message. source: of a shadow; offset: the number of its journal entries."""
    return models_pb2.Model(
        name=model.name,
        spec=spec_message(model.spec),
        champion=model.champion,
        anchor=model.anchor,
        paused=model.paused,
        streams=model.known,
        offset=offset,
        judged_offset=model.judged_offset,
        report=report_message(metrics, comparison_message(model, source, metrics)),
    )


COMPARED = (  # keys in which a shadow must equal its source, or their losses are of other labels or in other units
    "targets", "classes", "horizon", "learn_every", "loss", "huber_delta", "degrees", "class_weights", "scaler",
    "label_range", "max_gap",
)  # fmt: skip


def comparison_message(model: ServedModel, source: ServedModel, metrics: ModelMetrics) -> models_pb2.Comparison | None:
    """Return the losses of a shadow beside its source's; None for another model."""
    if not model.spec.shadow:
        return None
    apart = [name for name in COMPARED if getattr(model.spec, name) != getattr(source.spec, name)]
    found = metrics.learner.compared
    made = models_pb2.Comparison(shadow=model.name, source=source.name)
    if apart:
        made.problem = f"they differ in {', '.join(apart)}: their losses are of other labels, or in other units"
    elif found is not None:
        made.labels, made.loss, made.persistence_loss, made.source_loss, made.source_persistence_loss = found
    return made


def report_message(metrics: ModelMetrics, comparison: models_pb2.Comparison | None = None) -> models_pb2.ModelReport:
    """Return a model's report as a message."""
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
        comparison=comparison,
    )


def version_message(version: Version) -> models_pb2.Version:
    """Return a version as a message."""
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
    """Return an event as a message of Watch."""
    return models_pb2.ModelEvent(
        model=event.key.name,
        kind=event.kind,  # type: ignore[arg-type]  # numbered alike
        offset=event.offset,
        version=event.version,
        reason=event.reason,
        numbers=dict(event.numbers),
        time=event.time,
    )
