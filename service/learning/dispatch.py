"""Handle the trainers' messages; decide what to skip, how thinly to learn, and where a new trainer starts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from service.access.tenants import Tenants
from service.common import limits
from service.common.gate import GateSettings
from service.journal.records import decode_chunk
from service.journal.retention import is_held_too_long
from service.journal.writer import Journal
from service.learning.child import TrainerClient
from service.learning.deaths import DEATHS
from service.learning.intake import Intake
from service.learning.pool import Trainers
from service.observe.learning_metrics import TrainerMetrics
from service.observe.progress import LearnerMetrics
from service.observe.server_metrics import StorageMetrics
from service.publishing.comparing import Comparing
from service.publishing.freshness import Freshness
from service.publishing.publisher import Publisher
from service.publishing.retention import Retention
from service.serving.catalog import Catalog
from service.storage.versions import Versions
from service.streams.served import ServedModel
from service.trainer.messages import Message, NoWeights, Restart, RestartPoint, TrainerSettings, Weights
from service.trainer.reports import Anchored, Drifted, NeedWeights, Progress, Ready, Saved, Verdict

PACE = 0.05  # of `publish_s`: the longest wait of a commit for those after it


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningSettings:
    """Settings of the trainers and of what they are sent."""

    data: Path
    trainers: int
    nice: int
    hang_s: float  # silence after which a trainer with work is killed
    memory_bytes: int  # of the models in a trainer's memory
    publish_labels: int
    publish_s: float
    checkpoint_chunks: int
    gate: GateSettings
    comfortable_backlog: int  # entries that may wait before labels are thinned
    comfortable_s: float  # seconds of learning that may wait before labels are thinned
    journal_cap_bytes: int
    segment_bytes: int


class Learning:
    """The trainers, as serving uses them."""

    def __init__(
        self,
        settings: LearningSettings,
        catalog: Catalog,
        journal: Journal,
        versions: Versions,
        tenants: Tenants,
        intake: Intake,
        publisher: Publisher,
        retention: Retention,
        freshness: Freshness,
        metrics: TrainerMetrics,
        learner: LearnerMetrics,
        storage: StorageMetrics,
        clock: Callable[[], float],
    ) -> None:
        """clock: monotonic seconds."""
        self._settings, self._catalog, self._journal, self._versions = settings, catalog, journal, versions
        self._tenants, self._intake, self._metrics, self._learner = tenants, intake, metrics, learner
        self._publisher, self._retention, self._freshness = publisher, retention, freshness
        self.trainers = Trainers(
            settings.trainers, settings.hang_s, self, catalog.models, journal, tenants, metrics, storage, clock
        )
        for client in self.trainers.clients:
            client.feed.pace_s = settings.publish_s * PACE
        self._comparing = Comparing(catalog, journal, learner)
        catalog.on_removed.append(self.trainers.removed)
        # Position of each trainer's checkpoint; 0 until it is known: the trainer may need the whole journal.
        self._checkpoints = [0] * settings.trainers
        self._learned: dict[int, int] = {}  # model → entries learned
        catalog.on_removed.append(self._removed)

    @property
    def checkpoint(self) -> int:
        """The position up to which every trainer has saved what it learned."""
        return min(self._checkpoints)

    # ---- messages

    def trainer_settings(self, checkpoint: str) -> TrainerSettings:
        """The first message to a trainer process that starts now. checkpoint: the name of its file."""
        settings, census = self._settings, self._catalog.census()
        return TrainerSettings(
            data=str(settings.data.resolve()),
            checkpoint=checkpoint,
            nice=settings.nice,
            publish_labels=settings.publish_labels,
            publish_s=settings.publish_s,
            checkpoint_chunks=settings.checkpoint_chunks,
            memory_bytes=settings.memory_bytes,
            gate=settings.gate,
            models=tuple(census["models"]),
            last_model=census["last_model"],
            skips={model: tuple((first, end) for first, end in ranges) for model, ranges in census["skips"].items()},
            judged=census["judged"],
        )

    async def handle(self, message: Message, trainer: int = 0) -> Weights | NoWeights | None:
        """Act on one message of a trainer; returns the answer to `NeedWeights`."""
        match message:
            case Verdict():
                self._count_seconds(message.model, message.seconds)
                await self._publisher.apply(message)
            case Progress():
                self._note_progress(message)
            case Anchored():
                self._publisher.anchored(message)
            case Drifted():
                self._publisher.drifted(message)
            case Ready() | Saved():
                self._checkpoints[trainer] = message.position
                self._metrics.checkpoint_position.set(self.checkpoint)
                self._retention.checkpointed(message, trainer)
            case NeedWeights():
                return await asyncio.to_thread(self._publisher.weights, message)
        return None

    def _note_progress(self, progress: Progress) -> None:
        model = self._catalog.models.get(progress.model)
        if model is None:
            return
        self._learned[model.number] = progress.totals.offset
        self._intake.has_learned(model.number, progress.totals.offset)
        metrics = self._metrics.of(model.key)
        self._learner.of(model.key).learned(progress)
        self._comparing.reported(progress)
        self._count_seconds(model.number, progress.seconds)
        metrics.backlog.set(self._backlog(model.number))
        metrics.backlog_seconds.set(self._seconds_of(model.number, self._backlog(model.number)))
        metrics.learn_every.set(self.learn_every(model.number))

    def _count_seconds(self, model: int, seconds: float) -> None:
        """Count the seconds that learning a model, or a verdict on it, took."""
        served = self._catalog.models.get(model)
        if served is not None:
            self._metrics.of(served.key).learning_seconds.inc(seconds)

    # ---- what is not learned

    async def prepare_restart(self, why: str, trainer: int = 0) -> Restart:
        """Where a trainer continues that cannot use its checkpoint: with all its models as they serve now.

        From the rest of the journal, labels would be learned twice, as the versions in service contain most of them.
        Labels that they do not contain are skipped, by record.
        """
        await self._skip_unlearned(why, trainer)
        self._checkpoints[trainer], position, points = 0, self._journal.durable_position, []
        for number, model in self._models_of(trainer):
            offset = self._journal.durable_offset(number)
            if offset:  # or its first record is still to come
                spec = json.dumps(model.spec.to_stored())
                points.append(RestartPoint(number, spec, model.champion, offset, model.paused))
        return Restart(position, tuple(points))

    def _models_of(self, trainer: int) -> list[tuple[int, ServedModel]]:
        """The models that a trainer learns, by number."""
        models = ((n, model) for n, model in self._catalog.models.items() if not model.slices.part)
        return [(n, model) for n, model in models if self.trainers.place(n) == trainer]

    async def _skip_unlearned(self, why: str, trainer: int) -> None:
        """Skip, for each model of a trainer, the entries that the version in service has not learned; durable on
        return."""
        why = f"{why}: learning restarts from the version in service"
        for number, model in self._models_of(trainer):
            learned, end = self._versions.get(number, model.champion).offset, self._journal.offset(number)
            self._catalog.skip(model, model.skips.after(learned), end, why)
        await self._journal.flush()

    async def skip(self, position: int) -> None:
        """Skip the chunk at this journal position: the trainer dies of it each time. Durable on return."""
        [(_, payload), *_] = await asyncio.to_thread(self._journal.read, position, 1)
        chunk = decode_chunk(payload)
        model = self._catalog.models.get(chunk.model)
        if model is not None:
            self._catalog.skip(model, chunk.offset, chunk.end, f"the trainer has died of it {DEATHS} times")
            await self._journal.flush()  # trainers learn of a skip only once it is durable

    async def bound_unlearned(self) -> None:
        """Bound the journal that is kept for trainers that make no progress, save nothing, or have nothing to learn."""
        for trainer, client in enumerate(self.trainers.clients):
            await self._bound(trainer, client)

    async def _bound(self, trainer: int, client: TrainerClient) -> None:
        journal, cap, checkpoint = self._journal, self._settings.journal_cap_bytes, self._checkpoints[trainer]
        if not client.tried.is_set():  # its checkpoint is not known yet
            return
        if is_held_too_long(journal.durable_position, journal.first_position, checkpoint, cap):
            why = f"the trainer has saved nothing since position {checkpoint}, and journal_cap_bytes = {cap}"
            await client.give_up(why)  # first, so that no version is published that has learned skipped entries
            await self._skip_unlearned(why, trainer)
            self._checkpoints[trainer] = journal.durable_position
        elif journal.durable_position - checkpoint > self._settings.segment_bytes // 4:
            client.advance(journal.durable_position)

    def _removed(self, model: int) -> None:
        self._learned.pop(model, None)

    # ---- thinning

    def _backlog(self, model: int) -> int:
        return self._journal.durable_offset(model) - self._learned.get(model, 0)

    def _seconds_of(self, model: int, entries: int) -> float:
        return self.trainers.of(model).feed.seconds_of(model, entries)

    def learn_every(self, model: int) -> int:
        """Learn one label in this many of those that a model gets now.

        It depends on the model's own backlog: in entries, and in the seconds that they take of its tenant's quota.
        """
        if model not in self._learned or model not in self._catalog.models:
            return 1
        settings = self._settings
        quota = min(1.0, self._tenants.of(self._catalog.models[model].tenant).learning.per_s)
        # Seconds per entry are measured, and high after a start: they alone never cause thinning.
        late = self._freshness.waiting(model) >= settings.comfortable_s
        seconds_each = self._seconds_of(model, 1) if late else 0.0
        comfortable = limits.comfortable(settings.comfortable_backlog, settings.comfortable_s * quota, seconds_each)
        return limits.learn_every(self._backlog(model), comfortable)
