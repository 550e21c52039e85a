"""The trainer's verdicts become versions in service: stored, loaded, checked off the loop, swapped between steps."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import structlog

from service.common.gate import COOLING_DOWN
from service.engine.export import Canary
from service.engine.session import BadVersion, StepSession
from service.journal.records import Promote, Rollback, Swap
from service.journal.writer import Commit, JournalFailed
from service.observe import events as ev
from service.serving.ticks import Serving
from service.storage.disk import NoSpace
from service.storage.versions import Version, VersionCorrupt, VersionMissing, new_version
from service.streams.sessions import ServedModel
from service.trainer.messages import NoWeights, Weights
from service.trainer.reports import Anchored, Drifted, NeedWeights, Ready, Saved, Verdict

log = structlog.get_logger("publisher")

Return = type[Promote] | type[Rollback]  # how serving and learning go on from a version that is kept
KEPT_HOURS_S = 3600.0
MAX_MARKS = 100_000


class CheckpointVersions(NamedTuple):
    """What a checkpoint of the trainer knows of versions: the one that served, and those that the gate names."""

    version: int
    named: set[int]


class Publisher:
    """Applies verdicts one after another. Its inputs are bounded by the trainer's pace: it waits for each."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._on_disk: dict[
            int, deque[tuple[int, float]]
        ] = {}  # per model: (offset, clock seconds) of commits unjudged
        self._needed: dict[int, int] = {}  # per model: champion of the last snapshot, which recovery begins with
        # Per trainer and model: where the trainer's recovery begins.
        self._checkpoint: dict[int, dict[int, CheckpointVersions]] = {}
        self._prunable: set[int] = set()  # models of which a version may have become superfluous since it was pruned
        self._drifted: dict[int, int] = {}  # per model: offset of the last drift that was told
        serving.on_commit.append(self._committed)
        serving.on_removed.append(self._removed)

    async def apply(self, verdict: Verdict) -> None:
        """Carry out one verdict: publish, veto or unchanged, and a rollback if it asks for one."""
        model = self._serving.models.get(verdict.model)
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
            self._serving.metrics.verdicts.labels(*model.key, kind).inc()
            self._serving.metrics.of(model.key).evidence.set(verdict.numbers.get("evidence", 1.0))
            self._judged(model, verdict.offset, in_service=kind == "publish")

    def _stale(self, model: ServedModel, offset: int) -> bool:
        """Whether a verdict up to `offset` is out of date: from a replaying trainer, from before a rollback or
        promotion, or for a deleted model."""
        return model.deleted or offset < model.judged_offset

    async def _publish(self, model: ServedModel, verdict: Verdict) -> str:
        serving, numbers = self._serving, dict(verdict.numbers)
        onnx, weights, canary = verdict.onnx, verdict.weights, verdict.canary
        if await asyncio.to_thread(self._serves, model, onnx):
            return "unchanged"
        facts = model.number, model.champion, verdict.offset
        try:
            # All of it in threads: of a large model, even the digests take as long as many ticks.
            version = await asyncio.to_thread(new_version, *facts, onnx, weights, serving.wall(), numbers)
            recorded = await asyncio.to_thread(Canary.unpack, canary)
            session, error = await asyncio.to_thread(serving.engine.prepare, onnx, recorded)
            number = await asyncio.to_thread(serving.versions.add, version, onnx, weights, canary)
        except BadVersion as bad:
            self._emit(model, ev.VETOED, replace(verdict, reason=str(bad)), model.champion)
            return "veto"
        except NoSpace as full:  # the next verdict brings what this one would have
            serving.metrics.disk_full.labels("version").inc()
            self._emit(model, ev.VETOED, replace(verdict, reason=f"the disk is full: {full}"), model.champion)
            return "no_space"
        if model.deleted:  # meanwhile, and its versions with it: this one came too late
            await asyncio.to_thread(serving.versions.drop, model.number)
        if self._stale(model, verdict.offset):
            return "stale"
        # From here to the end nothing awaits: the swap's place in the journal tells which ticks it answers.
        serving.record(model, Swap(number, verdict.offset, bytes.fromhex(version.digest)))
        self._into_service(model, number, session)
        serving.metrics.of(model.key).parity_error.set(error)
        serving.metrics.export_seconds.observe(numbers.get("export_s", 0.0))
        self._emit(model, ev.PUBLISHED, verdict, number)
        return "publish"

    def _serves(self, model: ServedModel, onnx: bytes) -> bool:
        """In a thread: whether this very graph serves, as when a trainer that began anew judges again what it had
        published."""
        try:
            champion = self._serving.versions.get(model.number, model.champion)
        except VersionMissing:  # deleted meanwhile
            return False
        return champion.digest == hashlib.sha256(onnx).hexdigest()

    async def _roll_back_if_kept(self, model: ServedModel, verdict: Verdict) -> None:
        number = verdict.rollback
        try:
            prepared = await asyncio.to_thread(self._prepare_return, model, number)
        except (VersionMissing, VersionCorrupt, BadVersion, NoSpace) as error:
            # The champion serves on; the trainer asks again.
            log.error("cannot roll back", model=model.name, version=number, error=str(error))
            return
        if not self._stale(model, verdict.offset):
            self._begin_again(Rollback, model, *prepared, verdict.offset, verdict.reason, verdict.numbers)

    async def begin_again(self, kind: Return, model: ServedModel, number: int, reason: str) -> None:
        """By hand: serving goes on with a kept version, and the learner with it when the record reaches it.

        Raises VersionMissing, VersionCorrupt, BadVersion, JournalFailed: nothing has changed then.
        """
        prepared = await asyncio.to_thread(self._prepare_return, model, number)
        self._begin_again(kind, model, *prepared, self._serving.journal.offset(model.number), reason, {})

    def _begin_again(
        self,
        kind: Return,
        model: ServedModel,
        version: Version,
        session: StepSession,
        offset: int,
        reason: str,
        numbers: Mapping[str, float],
    ) -> None:
        """Between two steps. All labels up to the record are judged with it: what learned them is thrown away."""
        number = version.number
        self._serving.record(model, kind(number, offset, bytes.fromhex(version.digest), reason))
        self._into_service(model, number, session)
        if kind is Rollback:
            self._serving.metrics.rollbacks.labels(*model.key).inc()
        event = ev.ROLLED_BACK if kind is Rollback else ev.PUBLISHED
        self._serving.emit(model, event, offset, number, reason, dict(numbers))

    def _into_service(self, model: ServedModel, number: int, session: StepSession) -> None:
        """Between two steps, with the record that says so: this version answers from here on; no other stays."""
        self._serving.engine.replace(model.number, number, session)

    def _prepare_return(self, model: ServedModel, number: int) -> tuple[Version, StepSession]:
        """In a thread: a kept version, loaded, checked, and from now on never pruned: a record is to name it."""
        versions = self._serving.versions
        session = self._serving.loader.load(model, number)
        versions.pin(model.number, number)
        return versions.get(model.number, number), session

    def anchored(self, message: Anchored) -> None:
        """The trainer's gate chose a new anchor."""
        model, version = self._serving.models.get(message.model), message.version
        if model is None or message.offset < model.begun or model.anchor == version:
            return  # or by a trainer that has not seen yet that somebody chose another
        model.anchor = version
        model.change()
        self._prunable.add(model.number)
        self._serving.emit(model, ev.ANCHORED, message.offset, version, "held in service")

    def drifted(self, message: Drifted) -> None:
        """Report drift once: a trainer that learns again after its checkpoint reports it again."""
        model = self._serving.models.get(message.model)
        if model is None or message.offset <= self._drifted.get(model.number, 0):
            return
        self._drifted[model.number] = message.offset
        reason = f"the loss has risen; reaction: {message.reaction}"
        self._serving.emit(model, ev.DRIFTED, message.offset, model.champion, reason, dict(message.numbers))

    def weights(self, message: NeedWeights) -> Weights | NoWeights:
        """The exact weights of a version, or why there are none."""
        model, number = message.model, message.version
        try:
            blobs = self._serving.versions.blobs(model, number)
        except (VersionMissing, VersionCorrupt) as error:
            return NoWeights(str(error), deleted=model not in self._serving.models)
        return Weights(model, number, blobs.weights)

    def checkpointed(self, message: Ready | Saved, trainer: int = 0) -> None:
        """A checkpoint of a trainer was saved, which names the models that changed, or loaded, which names all:
        learning again from there needs its versions."""
        its = self._checkpoint.setdefault(trainer, {})
        if isinstance(message, Ready):
            its.clear()
        for number, standing in message.models.items():
            known = CheckpointVersions(standing.version, {standing.anchor, standing.contender})
            if its.get(number) != known:
                its[number] = known
                self._prunable.add(number)

    def snapshot_taken(self, champions: dict[int, int]) -> None:
        """A snapshot is on disk, with these champions of the models that changed: versions before them that nothing
        else needs may go."""
        noted = self._prunable  # the loop adds to it meanwhile
        self._prunable = set()
        for number in noted | champions.keys():
            model = self._serving.models.get(number)
            if model is None or (number not in self._needed and number not in champions):
                continue  # no snapshot of this process holds it: recovery may begin with any version
            needed = self._needed.get(number, champions.get(number, 0))
            champion = self._needed[number] = champions.get(number, needed)
            if needed != champion:  # the version that the former snapshot needed may go with the next one
                self._prunable.add(number)
            self._serving.versions.prune(number, self._keep(model, min(needed, champion)))

    def _keep(self, model: ServedModel, since: int) -> set[int]:
        """What retention keeps: whatever recovery may meet, serving since the oldest snapshot, the trainer since its
        checkpoint; recent ones, the anchor, one per hour. (Besides, those that are pinned.)"""
        known = (its[model.number] for its in self._checkpoint.values() if model.number in its)
        checkpoint = next(known, CheckpointVersions(0, set()))
        since = min(since, checkpoint.version)
        keep, hour = {model.anchor, model.champion, *checkpoint.named}, None
        for version in reversed(self._serving.versions.list(model.number)):
            fresh = version.number >= since or version.number > model.champion - self._serving.config.keep_versions
            if fresh or version.created // KEPT_HOURS_S != hour:
                keep.add(version.number)
            hour = version.created // KEPT_HOURS_S
        return keep

    def _removed(self, model: int) -> None:
        for known in (self._on_disk, self._needed, self._drifted):
            known.pop(model, None)
        for checkpoint in self._checkpoint.values():
            checkpoint.pop(model, None)
        self._prunable.discard(model)

    def _committed(self, commit: Commit) -> None:
        now = self._serving.clock()
        for chunk in commit.chunks:
            model = self._serving.models.get(chunk.model)
            if model and (chunk.labels or (len(chunk.seqs) and model.spec.task == "forecast")):
                if chunk.model not in self._on_disk:
                    self._on_disk[chunk.model] = deque(maxlen=MAX_MARKS)
                    self._serving.metrics.of(model.key).unjudged.set_function(partial(self.waiting, chunk.model))
                self._on_disk[chunk.model].append((chunk.end_offset, now))

    def waiting(self, model: int) -> float:
        """For how many seconds the oldest label of a model that is on disk and not judged has been there; 0: none."""
        with suppress(LookupError):  # nothing waits; or, asked from another thread, no longer
            return max(0.0, self._serving.clock() - self._on_disk[model][0][1])
        return 0.0

    def _judged(self, model: ServedModel, offset: int, in_service: bool) -> None:
        marks, now = self._on_disk.get(model.number, deque()), self._serving.clock()
        freshness = self._serving.metrics.of(model.key).freshness
        while marks and marks[0][0] <= offset:
            _, on_disk = marks.popleft()
            if in_service:
                freshness.observe(now - on_disk)
        self._serving.judged(model, offset)

    def _emit(self, model: ServedModel, kind: int, verdict: Verdict, version: int) -> None:
        self._serving.emit(model, kind, verdict.offset, version, verdict.reason, dict(verdict.numbers))
