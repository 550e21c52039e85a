"""Carries out the trainer's verdicts: versions are stored and checked in threads, and swapped between steps."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace

import structlog

from service.common.gate import COOLING_DOWN
from service.engine.export import Canary
from service.engine.loaded import Engine
from service.engine.session import BadVersion, StepSession
from service.journal.records import Promote, Rollback, Swap
from service.journal.writer import Journal, JournalFailed
from service.observe import events as ev
from service.observe.learning_metrics import PublishingMetrics
from service.observe.server_metrics import StorageMetrics
from service.publishing.freshness import Freshness
from service.publishing.retention import Retention
from service.serving.catalog import Catalog
from service.serving.loading import Loader
from service.storage.disk import NoSpace
from service.storage.versions import Version, VersionCorrupt, VersionMissing, Versions, new_version
from service.streams.served import ServedModel
from service.trainer.messages import NoWeights, Weights
from service.trainer.reports import Anchored, Drifted, NeedWeights, Verdict

log = structlog.get_logger("publisher")

Return = type[Promote] | type[Rollback]  # how serving and learning return to a kept version


class Publisher:
    """Applies verdicts one at a time. Each trainer waits for its own, which bounds the queue."""

    def __init__(
        self,
        catalog: Catalog,
        journal: Journal,
        versions: Versions,
        engine: Engine,
        loader: Loader,
        retention: Retention,
        freshness: Freshness,
        metrics: PublishingMetrics,
        storage: StorageMetrics,
        wall: Callable[[], float],
    ) -> None:
        """wall: seconds since 1970, the time at which versions are created."""
        self._catalog, self._journal, self._versions, self._engine = catalog, journal, versions, engine
        self._loader, self._retention, self._freshness = loader, retention, freshness
        self._metrics, self._storage, self._wall = metrics, storage, wall
        self._drifted: dict[int, int] = {}  # by model: offset of the last reported drift
        catalog.on_removed.append(self._removed)

    def _removed(self, model: int) -> None:
        self._drifted.pop(model, None)

    async def apply(self, verdict: Verdict) -> None:
        """Carry out one verdict: publish, veto or unchanged, and a rollback if it asks for one."""
        model = self._catalog.models.get(verdict.model)
        if model is None:
            return
        kind = verdict.verdict
        try:
            if self._stale(model, verdict.offset):
                kind = "stale"
            elif kind == "publish":
                kind = await self._publish(model, verdict)
            else:
                if verdict.rollback:
                    await self._roll_back_if_kept(model, verdict)
                if kind == "veto":
                    self._emit(model, ev.VETOED, verdict, model.champion)
                    kind = "cooling_down" if verdict.reason == COOLING_DOWN else kind
        except JournalFailed:
            return  # the journal's own task ends the process
        if not model.deleted:
            self._metrics.verdicts.labels(*model.key, kind).inc()
            self._metrics.of(model.key).evidence.set(verdict.numbers.get("evidence", 1.0))
            self._freshness.judged(model, verdict.offset, in_service=kind == "publish")
            model.judge(verdict.offset)
            model.owners.judged()

    def _stale(self, model: ServedModel, offset: int) -> bool:
        """Whether a verdict up to `offset` is out of date: from a replaying trainer, from before a rollback or
        promotion, or for a deleted model."""
        return model.deleted or offset < model.judged_offset

    async def _publish(self, model: ServedModel, verdict: Verdict) -> str:
        numbers = dict(verdict.numbers)
        onnx, weights, canary = verdict.onnx, verdict.weights, verdict.canary
        if await asyncio.to_thread(self._serves, model, onnx):
            return "unchanged"
        facts = model.number, model.champion, verdict.offset
        try:
            # All of it in threads: for a large model, even the digests take as long as many ticks.
            version = await asyncio.to_thread(new_version, *facts, onnx, weights, self._wall(), numbers)
            recorded = await asyncio.to_thread(Canary.unpack, canary)
            session, error = await asyncio.to_thread(self._engine.prepare, onnx, recorded)
            number = await asyncio.to_thread(self._versions.add, version, onnx, weights, canary)
        except BadVersion as bad:
            self._emit(model, ev.VETOED, replace(verdict, reason=str(bad)), model.champion)
            return "veto"
        except NoSpace as full:  # the next verdict includes what this one would have published
            self._storage.disk_full.labels("version").inc()
            self._emit(model, ev.VETOED, replace(verdict, reason=f"{full.condition}: {full}"), model.champion)
            return "no_space"
        if model.deleted:  # meanwhile, and its versions with it
            await asyncio.to_thread(self._versions.drop, model.number)
        if self._stale(model, verdict.offset):
            return "stale"
        # From here to the end nothing awaits: the swap's place in the journal defines the ticks that it answers.
        self._catalog.record(model, Swap(number, verdict.offset, bytes.fromhex(version.digest)))
        self._into_service(model, number, session)
        self._metrics.of(model.key).parity_error.set(error)
        self._metrics.export_seconds.observe(numbers.get("export_s", 0.0))
        self._emit(model, ev.PUBLISHED, verdict, number)
        return "publish"

    def _serves(self, model: ServedModel, onnx: bytes) -> bool:
        """Whether this graph serves already, as when a restarted trainer repeats a verdict. In a thread."""
        try:
            champion = self._versions.get(model.number, model.champion)
        except VersionMissing:  # deleted meanwhile
            return False
        return champion.digest == hashlib.sha256(onnx).hexdigest()

    async def _roll_back_if_kept(self, model: ServedModel, verdict: Verdict) -> None:
        number = verdict.rollback
        try:
            prepared = await asyncio.to_thread(self._prepare_return, model, number)
        except (VersionMissing, VersionCorrupt, BadVersion, NoSpace) as error:
            # The champion keeps serving; the trainer asks again.
            log.error("cannot roll back", model=model.name, version=number, error=str(error))
            return
        if not self._stale(model, verdict.offset):
            self._return(Rollback, model, *prepared, verdict.offset, verdict.reason, verdict.numbers)

    async def return_to(self, kind: Return, model: ServedModel, number: int, reason: str) -> None:
        """Return serving and learning to a kept version, on an administrator's request.

        Raises VersionMissing, VersionCorrupt, BadVersion, JournalFailed; nothing has changed then.
        """
        prepared = await asyncio.to_thread(self._prepare_return, model, number)
        self._return(kind, model, *prepared, self._journal.offset(model.number), reason, {})

    def _return(
        self,
        kind: Return,
        model: ServedModel,
        version: Version,
        session: StepSession,
        offset: int,
        reason: str,
        numbers: Mapping[str, float],
    ) -> None:
        """Record the return and swap the version, between two steps. All labels up to the record are judged with it."""
        number = version.number
        self._catalog.record(model, kind(number, offset, bytes.fromhex(version.digest), reason))
        self._into_service(model, number, session)
        if kind is Rollback:
            self._metrics.rollbacks.labels(*model.key).inc()
        event = ev.ROLLED_BACK if kind is Rollback else ev.PUBLISHED
        self._catalog.emit(model, event, offset, number, reason, dict(numbers))

    def _into_service(self, model: ServedModel, number: int, session: StepSession) -> None:
        """Make this version answer from now on, between two steps and with its record; unload the others."""
        self._engine.replace(model.number, number, session)

    def _prepare_return(self, model: ServedModel, number: int) -> tuple[Version, StepSession]:
        """Load, check and pin a kept version, because a record will name it. In a thread."""
        session = self._loader.load(model, number)
        self._versions.pin(model.number, number)
        return self._versions.get(model.number, number), session

    def anchored(self, message: Anchored) -> None:
        """Apply the gate's choice of a new anchor."""
        model, version = self._catalog.models.get(message.model), message.version
        if model is None or message.offset < model.restarted or model.anchor == version:
            return  # from before the last rollback or promotion, or not new
        model.anchor = version
        model.saving.change()
        self._retention.look_at(model.number)
        self._catalog.emit(model, ev.ANCHORED, message.offset, version, "held in service")

    def drifted(self, message: Drifted) -> None:
        """Report drift once: a trainer that learns again after its checkpoint reports it again."""
        model = self._catalog.models.get(message.model)
        if model is None or message.offset <= self._drifted.get(model.number, 0):
            return
        self._drifted[model.number] = message.offset
        reason = f"the loss has risen; reaction: {message.reaction}"
        self._catalog.emit(model, ev.DRIFTED, message.offset, model.champion, reason, dict(message.numbers))

    def weights(self, message: NeedWeights) -> Weights | NoWeights:
        """The exact weights of a version, or why there are none."""
        model, number = message.model, message.version
        try:
            blobs = self._versions.blobs(model, number)
        except (VersionMissing, VersionCorrupt) as error:
            return NoWeights(str(error), deleted=model not in self._catalog.models)
        return Weights(model, number, blobs.weights)

    def _emit(self, model: ServedModel, kind: int, verdict: Verdict, version: int) -> None:
        self._catalog.emit(model, kind, verdict.offset, version, verdict.reason, dict(verdict.numbers))
