"""What serving does with its trainer's words, and where that does not get on: what is skipped, from where it begins."""

from __future__ import annotations

import asyncio
from typing import Any

from service.common import limits
from service.common.config import ServeConfig
from service.journal.records import decode_chunk
from service.journal.retention import is_held_too_long
from service.journal.skips import DEATHS
from service.learning.child import TrainerClient
from service.learning.intake import Intake
from service.learning.pool import Trainers
from service.publishing.publisher import Publisher
from service.serving.ticks import Serving
from service.streams.sessions import ServedModel
from service.trainer.messages import Message


class Learning:
    """The trainers, seen from serving."""

    def __init__(self, config: ServeConfig, serving: Serving, intake: Intake, publisher: Publisher) -> None:
        self._config, self._serving, self._intake, self._publisher = config, serving, intake, publisher
        self._journal = serving.journal
        self.trainers = Trainers(config, serving, self.heard, self.begin_anew, self.skip)
        # Positions of each trainer's last; until it has said one, it may need everything.
        self._checkpoints = [0] * self.trainers.count
        self._learned: dict[int, int] = {}  # model → entries learned
        self._journal.learn_every_of = self._learn_every
        serving.on_removed.append(self._removed)

    @property
    def checkpoint(self) -> int:
        """The position up to which every trainer has saved what it learned."""
        return min(self._checkpoints)

    async def heard(self, message: Message, trainer: int = 0) -> Message | None:
        """Take in one message of a trainer's; returns the answer to a question."""
        if message.kind == "verdict":
            self._took(message)
            await self._publisher.verdict(message)
        elif message.kind == "progress":
            model = self._serving.models.get(message.head["model"])
            if model is not None:
                self._learned[model.number] = message.head["offset"]
                self._intake.has_learned(model.number, message.head["offset"])
                metrics = self._serving.metrics.of(model.key)
                metrics.learned(dict(message.head))
                self._took(message)
                metrics.backlog.set(self._backlog(model.number))
                metrics.backlog_seconds.set(self._seconds_of(model.number, self._backlog(model.number)))
                metrics.learn_every.set(self._learn_every(model.number))
        elif message.kind == "anchored":
            self._publisher.anchored(message)
        elif message.kind == "drifted":
            self._publisher.drifted(message)
        elif message.kind in ("ready", "saved"):
            self._checkpoints[trainer] = message.head["position"]
            self._serving.metrics.checkpoint_position.set(self.checkpoint)
            self._publisher.checkpointed(message, trainer)
        elif message.kind == "need_weights":
            return await asyncio.to_thread(self._publisher.weights, message)
        return None

    async def begin_anew(self, why: str, trainer: int = 0) -> dict[str, Any]:
        """What a trainer begins with that cannot go on from its checkpoint: all models of its as they serve, now.

        From the journal that is left, labels would be learned a second time: the weights that serve hold most of them.
        The others are skipped, by record.
        """
        await self._skip_unlearned(why, trainer)
        self._checkpoints[trainer], position, models = 0, self._journal.durable_position, []
        for number, model in self._models_of(trainer):
            offset = self._journal.durable_offset(number)
            if offset:  # or its first record is still to come
                facts = {"model": number, "spec": model.spec.to_stored(), "paused": model.paused}
                models.append(facts | {"version": model.champion, "offset": offset})
        return {"position": position, "models": models}

    def _models_of(self, trainer: int) -> list[tuple[int, ServedModel]]:
        """The models that a trainer learns, by number."""
        return [(n, model) for n, model in self._serving.models.items() if self.trainers.place(n) == trainer]

    async def _skip_unlearned(self, why: str, trainer: int) -> None:
        """Of each model of a trainer, what the version that serves has not learned is never learned: recorded, on disk
        on return."""
        why = f"{why}: learning begins anew from the version that serves"
        for number, model in self._models_of(trainer):
            learned, end = self._serving.versions.get(number, model.champion).offset, self._journal.offset(number)
            self._serving.skip(model, model.skips.after(learned), end, why)
        await self._journal.flush()

    async def skip(self, position: int) -> None:
        """The trainer dies of the chunk at this journal position, each time it is started: it is never learned."""
        [(_, payload), *_] = await asyncio.to_thread(self._journal.read, position, 1)
        chunk = decode_chunk(payload)
        model = self._serving.models.get(chunk.model)
        if model is not None:
            self._serving.skip(model, chunk.offset, chunk.end, f"the trainer has died of it {DEATHS} times")
            await self._journal.flush()  # a trainer is told of nothing that is not on disk

    async def bound_unlearned(self) -> None:
        """A trainer that does not get on, or saves nothing, does not hold the journal without bound; nor does one that
        has nothing to learn of it."""
        for trainer, client in enumerate(self.trainers.clients):
            await self._bound(trainer, client)

    async def _bound(self, trainer: int, client: TrainerClient) -> None:
        journal, cap, checkpoint = self._journal, self._config.journal_cap_bytes, self._checkpoints[trainer]
        if not client.tried.is_set():  # nobody knows of its checkpoint yet
            return
        if is_held_too_long(journal.durable_position, journal.first_position, checkpoint, cap):
            why = f"the trainer has saved nothing since position {checkpoint}, and journal_cap_bytes = {cap}"
            await client.give_up(why)  # first, so that nothing is published that has learned what is skipped
            await self._skip_unlearned(why, trainer)
            self._checkpoints[trainer] = journal.durable_position
        elif journal.durable_position - checkpoint > self._config.segment_bytes // 4:
            client.reached(journal.durable_position)

    def _removed(self, model: int) -> None:
        self._learned.pop(model, None)

    def _backlog(self, model: int) -> int:
        return self._journal.durable_offset(model) - self._learned.get(model, 0)

    def _took(self, message: Message) -> None:
        """Count what learning or judging a model took."""
        model, seconds = self._serving.models.get(message.head["model"]), message.head.get("seconds", 0.0)
        if model is not None:
            self._serving.metrics.of(model.key).learning_seconds.inc(seconds)

    def _seconds_of(self, model: int, entries: int) -> float:
        return self.trainers.of(model).feed.seconds_of(model, entries)

    def _learn_every(self, model: int) -> int:
        """How thinly a model learns what comes now, by its own backlog alone: in entries, and in the seconds that they
        take of what its tenant may have."""
        if model not in self._learned or model not in self._serving.models:
            return 1
        quota = min(1.0, self._serving.tenants.of(self._serving.models[model].tenant).learning.per_s)
        # What an entry takes is measured, and the first after a start take long: no label is left out by that alone.
        late = self._publisher.waiting(model) >= self._config.comfortable_s
        seconds_each = self._seconds_of(model, 1) if late else 0.0
        comfortable = limits.comfortable(
            self._config.comfortable_backlog, self._config.comfortable_s * quota, seconds_each
        )
        return limits.learn_every(self._backlog(model), comfortable)
