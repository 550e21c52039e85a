"""The models that are served: known by key and number, changed by record, reported to metrics and watchers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from service.common.errors import NotFound
from service.common.names import ModelKey
from service.journal.records import Label, ModelChange, Record, Reset, Skip, StateDelete
from service.journal.writer import Journal
from service.observe import events as ev
from service.observe.events import Event, Events
from service.observe.serving_metrics import ServingMetrics
from service.streams.served import ServedModel
from service.streams.totals import Totals

log = structlog.get_logger("serving")


class Catalog:
    """All models of the server. Every method runs to its end on the event loop.

    Listeners in `on_removed` are called with the number of a removed model. Each looks after its own data only, so
    their order does not matter.
    """

    def __init__(self, journal: Journal, events: Events, metrics: ServingMetrics, wall: Callable[[], float]) -> None:
        """wall: seconds since 1970, the time of events."""
        self._journal, self._events, self._metrics, self._wall = journal, events, metrics, wall
        self.models: dict[int, ServedModel] = {}
        self.by_key: dict[ModelKey, ServedModel] = {}
        self.totals = Totals()
        self.changed: set[int] = set()  # models that the next snapshot must write
        self.gone: set[int] = set()  # models that the next snapshot must delete
        self.last_number = 0  # the highest number given to a model so far
        self.coming: set[int] = set()  # numbers given to models whose records are not written yet
        self.on_removed: list[Callable[[int], None]] = []
        self.inhabited = asyncio.Event()  # set with the first model

    # ---- models

    def model(self, key: ModelKey) -> ServedModel:
        """Return the model. Raises NotFound alike for a missing model and for one of another tenant."""
        found = self.by_key.get(key)
        if found is None:
            raise NotFound("model", key.name, "no such model; create it first, or list the models")
        return found

    def check_there(self, model: ServedModel) -> None:
        """Raise NotFound for a model that was deleted after the caller looked it up."""
        if model.deleted:
            raise NotFound("model", model.name, "deleted meanwhile; create it again, or list the models")

    def next_number(self) -> int:
        """Reserve a model number. It stays used even if the model is never made; see `coming`."""
        self.last_number += 1
        self.coming.add(self.last_number)
        return self.last_number

    def add(self, model: ServedModel) -> None:
        """Add a model."""
        self.models[model.number] = model
        self.inhabited.set()
        self.by_key[model.key] = model
        model.saving.report_to(self.changed)
        self.totals.count(model.number, model.tenant, model.known, len(model.table))
        self.last_number = max(self.last_number, model.number)
        self.link(model)

    def source_of(self, model: ServedModel) -> ServedModel:
        """Return the model whose streams this one learns from: of a shadow its source, otherwise itself."""
        return self.by_key[ModelKey(model.tenant, model.spec.shadow)] if model.spec.shadow else model

    def link(self, model: ServedModel) -> None:
        """Let a model's source know whether it is a shadow now."""
        source = self.by_key.get(ModelKey(model.tenant, model.created_as.shadow))
        if source is not None:
            others = [shadow for shadow in source.shadows if shadow is not model]
            source.shadows = others + ([model] if model.spec.shadow and not model.deleted else [])

    def remove(self, model: ServedModel) -> None:
        """Remove a model whose deletion is recorded, and wake the owners of its streams.

        Its number is never used again; its name may be.
        """
        del self.models[model.number], self.by_key[model.key]
        self.link(model)
        self.totals.forget(model.number)
        self.changed.discard(model.number)
        self.gone.add(model.number)
        model.saving.report_to(set())  # later changes to a removed model are not saved
        model.owners.wake()
        self._metrics.forget(model.key)
        for listener in self.on_removed:
            listener(model.number)

    def census(self) -> dict[str, Any]:
        """Describe the models to a starting trainer: their numbers, skipped entries, and judged offsets.

        Numbers up to `last_model` that are not in `models` belong to deleted models, or to slices.
        """
        models = [(number, model) for number, model in self.models.items() if not model.slices.part]
        return {
            "models": sorted({number for number, _ in models} | self.coming),
            "last_model": self.last_number,
            "skips": {number: model.skips.pack() for number, model in models},
            "judged": {number: model.judged_offset for number, model in models},
        }

    # ---- records

    def record(self, model: ServedModel, record: Record) -> int:
        """Journal a record and apply it. Returns the journal offset just after it.

        A label, reset or deletion of a stream is recorded for the model's shadows too.

        Raises NotFound for a deleted model, JournalFailed.
        """
        self.check_there(model)
        offset = self._journal.append(model.number, record)
        model.apply(record, offset)
        if isinstance(record, Reset | StateDelete | Label):
            for shadow in model.shadows:
                shadow.apply(record, self._journal.append(shadow.number, record))
        elif isinstance(record, ModelChange):
            self.link(model)
        return offset

    def skip(self, model: ServedModel, first: int, end: int, reason: str) -> None:
        """Record that entries first .. end - 1 are never learned, and report it. Raises as `record`."""
        self.record(model, Skip(first, end, reason))
        self._metrics.skipped.labels(*model.key).inc(end - first)
        log.error("left out of learning", model=model.name, first=first, end=end, why=reason)
        self.emit(model, ev.SKIPPED, first, model.champion, reason, {"entries": float(end - first)})

    # ---- reports

    def emit(
        self,
        model: ServedModel,
        kind: int,
        offset: int,
        version: int,
        reason: str,
        numbers: dict[str, float] | None = None,
    ) -> None:
        """Send an event of a model to its watchers and update its metrics. DELETED is a model's last event; a slice has
        none, as its home has those of the model."""
        if model.slices.part or (model.deleted and kind != ev.DELETED):
            return
        now = self._wall()
        self._events.emit(Event(model.key, kind, offset, version, reason, now, numbers or {}))
        if kind == ev.DELETED:
            return
        self.report_versions(model)
        if kind in (ev.CREATED, ev.PUBLISHED, ev.ROLLED_BACK):
            self._metrics.of(model.key).published.set(now)

    def report_versions(self, model: ServedModel) -> None:
        """Set the metrics of a model's champion, anchor and pause."""
        self._metrics.of(model.key).stands(model.champion, model.anchor, model.paused)

    def report_streams(self, model: ServedModel, evicted: int = 0) -> None:
        """Count a model's streams again after some have come or gone; evicted: how many just left memory."""
        if evicted:
            self._metrics.of(model.key).evicted_streams.inc(evicted)
        if not model.deleted:  # another model may have its name by now
            self.totals.count(model.number, model.tenant, model.known, len(model.table))
            metrics = self._metrics.of(model.key)
            metrics.streams.set(model.known)
            metrics.resident.set(len(model.table))
            metrics.open_streams.set(model.owners.open)
