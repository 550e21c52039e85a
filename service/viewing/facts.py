"""How a model and the service stand: MODEL, GRADIENT, SERVICE, versions and events, from what is known anyway."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from service.observe.events import KINDS, PUBLISHED, Event
from service.observe.metrics import found, value_of
from service.observe.progress import LearnerProgress
from service.storage.versions import Version
from service.streams.served import ServedModel
from service.viewing import samples
from service.viewing.seen import Seen

MAX_QUARANTINES = 100  # models whose quarantine is listed


def model_facts(seen: Seen, model: ServedModel) -> dict[str, Any]:
    """Return MODEL. The model must not be deleted."""
    spec, own = model.spec, seen.metrics.of(model.key)
    counted, learner = own.counted(), own.learner
    source = seen.catalog.source_of(model)
    facts = {
        "name": model.name, "task": spec.task, "cell": "+".join(spec.cells) or spec.cell, "layers": spec.layers,
        "hidden": spec.hidden, "horizon": spec.horizon, "channels": list(spec.channels),
        "targets": list(spec.targets or spec.classes), "intervals": list(spec.intervals), "clip": spec.clip,
        "champion": model.champion, "anchor": model.anchor, "paused": model.paused, "shadow": spec.shadow,
        "streams": source.known, "streams_open": source.owners.open, "slices": model.slices.count,
        "offset": seen.journal.offset(model.number), "judged_offset": model.judged_offset,
        "loss": learner.loss, "persistence_loss": learner.persistence, "ticks": counted.ticks,
        "learned": counted.learned, "backlog": counted.backlog, "learn_every": counted.learn_every,
        "published": counted.published, "vetoed": counted.vetoed, "rolled_back": counted.rolled_back,
        "published_time": counted.published_time or None, "unjudged_seconds": counted.unjudged_seconds,
        "experts": dict(learner.report.experts) if learner.report else {},
    }  # fmt: skip
    part = model.slices.part
    facts["slice"] = {"index": part.index, "count": part.count} if part else None
    return facts | {"compared": learner.compared._asdict() if learner.compared else None}


def gradient_facts(
    progress: LearnerProgress, clip: float, time: float, since: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Return GRADIENT of the last report that had gradients; {"layers": {}} before the first.

    time: when it was looked at, seconds since 1970. since: totals of updates and clipped ones at an earlier look, for
    the share that was clipped; None: since the start.
    """
    report = progress.report
    if report is None:
        return {"layers": {}}
    totals = {name: value_of(progress.totals[name]) for name in ("updates", "clipped")}
    before = since or {"updates": 0.0, "clipped": 0.0}
    updates = totals["updates"] - before["updates"]
    return {
        "time": time, "updates": int(totals["updates"]),
        "layers": {layer: list(norms) for layer, norms in report.lags.items()},
        "by_layer": dict(report.by_layer[-1]) if report.by_layer else {},
        "norm": report.norms[-1] if report.norms else None, "clip": clip or None,
        "clipped": (totals["clipped"] - before["clipped"]) / updates if updates > 0 else None,
        "ratio": report.ratios[-1] if report.ratios else None, "saturated": dict(report.saturated),
    }  # fmt: skip


def service_facts(all_seen: Sequence[Seen], viewers: int) -> dict[str, Any]:
    """Return SERVICE but for the process's sample: totals since the start, of all shards."""
    refused: dict[str, float] = {}
    quarantine: dict[str, int] = {}
    models = [(seen, model) for seen in all_seen for model in seen.catalog.models.values()]
    for seen in all_seen:
        for reason, count in samples.refusals(seen.metrics).items():
            refused[reason] = refused.get(reason, 0.0) + count
    for seen, model in models:
        items = found(seen.metrics.learner.in_quarantine, *model.key)
        if items and len(quarantine) < MAX_QUARANTINES:
            quarantine[f"{model.tenant}/{model.name}"] = int(items)
    return {
        "refused": {reason: int(count) for reason, count in refused.items()}, "quarantine": quarantine,
        "models": len(models), "streams": sum(model.known for _, model in models),
        "streams_open": sum(model.owners.open for _, model in models), "viewers": viewers,
        "trainers": [{"ready": client.ready.is_set()} for seen in all_seen for client in seen.trainers.clients],
        "fresh_target": max((value_of(seen.metrics.publishing.fresh) for seen in all_seen), default=None),
        "journal_bytes": int(sum(value_of(seen.metrics.journal.journal_size) for seen in all_seen)),
    }  # fmt: skip


def shown_version(version: Version, model: ServedModel) -> dict[str, Any]:
    """Return a version's facts, and whether it serves or is the anchor."""
    return {
        "number": version.number, "parent": version.parent, "offset": version.offset, "created": version.created,
        "loss": version.loss, "anchor_loss": version.anchor_loss, "parity_error": version.parity_error,
        "digest": version.digest, "champion": version.number == model.champion,
        "anchor": version.number == model.anchor,
    }  # fmt: skip


def shown_event(event: Event) -> dict[str, Any]:
    """Return an event, its kind as a word."""
    return {
        "model": event.key.name, "kind": KINDS[event.kind - 1], "version": event.version, "offset": event.offset,
        "reason": event.reason, "numbers": dict(event.numbers), "time": event.time,
    }  # fmt: skip


def learned_in(versions: Sequence[Version], events: Iterable[Event], label_offset: int) -> int | None:
    """Return the first version that had learned a label: the one with the lowest number of those whose weights have
    learned the journal past it. None: none yet.

    label_offset: the journal's, just after the tick or record that made the label known. Events tell of versions that
    were pruned since.
    """
    known = {version.number: version.offset for version in versions}
    for event in events:
        if event.kind == PUBLISHED:
            known.setdefault(event.version, event.offset)
    return min((number for number, offset in known.items() if offset >= label_offset), default=None)
