"""Serving and trainer in one process, stepped by hand: real parts and files, events in an order that a test chooses."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.spec import ModelSpec
from service.access.grants import DEFAULT_TENANT
from service.common.names import ModelKey
from service.engine.export import export
from service.journal.records import SHARD, chunk_head
from service.server.components import Components
from service.server.config import ServeConfig
from service.server.server import Server
from service.serving.ticks import Tick
from service.streams.answers import Answer
from service.streams.served import ServedModel
from service.streams.session import Session
from service.trainer.checkpoint import Checkpoints, open_or_set_aside
from service.trainer.messages import LearnChunk, Message
from service.trainer.process import Trainer
from service.trainer.reports import NeedWeights, Verdict

Array = NDArray[np.float32]
W = TypeVar("W", bound="World")
NEVER_S = 1e9  # time triggers nothing here


def key(name: str) -> ModelKey:
    """Return the key of a model of the tests."""
    return ModelKey(DEFAULT_TENANT, name)


class Pipes:
    """Stands in for the trainer's Channel: keeps what is sent, answers requests for weights at once."""

    def __init__(self, server: Components) -> None:
        self._server = server
        self._answers: deque[Message] = deque()
        self.sent: deque[Message] = deque()
        self.ended = False

    def send(self, message: Message) -> None:
        if isinstance(message, NeedWeights):
            self._answers.append(self._server.publisher.weights(message))
        else:
            self.sent.append(message)

    def receive(self, timeout_s: float | None) -> Message | None:
        return self._answers.popleft() if self._answers else None

    def put_back(self, messages: list[Message]) -> None:
        assert not messages


class World:
    """A server whose trainer runs when a test calls `learn`. `journal.run` is the only task."""

    def __init__(self, data: Path, **settings: Any) -> None:
        values = {"publish_labels": 1, "publish_s": NEVER_S, "snapshot_s": NEVER_S} | settings
        self.clock: Callable[[], float] = time.perf_counter  # a test may set both
        self.wall: Callable[[], float] = time.time
        config = ServeConfig(data=data, listen="127.0.0.1:0", http="127.0.0.1:0", **values)
        self.server = self.made(config)
        self.serving, self.control = self.server.serving, self.server.control
        self._trainer: Trainer | None = None
        self._checkpoints: Checkpoints | None = None

    def made(self, config: ServeConfig) -> Components:
        """Return the server, or the components of a shard."""
        return Server(config, clock=lambda: self.clock(), wall=lambda: self.wall())

    async def model(self, name: str = "flow", **spec: Any) -> ServedModel:
        """Return the model of that name, created if needed; by default one channel and a small network."""
        values = {"channels": ["x"], "hidden": 4, "head_init": 0.5} | spec
        return await self.control.create(key(name), ModelSpec.from_mapping(values))

    def open(self, model: ServedModel, id: str) -> Session:
        """Open a stream that is new or in memory."""
        return self.serving.opening.open(model, id)[0]

    async def tick(self, model: ServedModel, session: Session, x: float, seq: int = 0) -> Answer:
        """Send one tick, by default the stream's next."""
        return (await self.ticks(model, [(session, x)], seq))[0]

    async def ticks(self, model: ServedModel, ticks: list[tuple[Session, float]], seq: int = 0) -> list[Answer]:
        """Send ticks that arrive together, as one batch."""
        taken: dict[int, int] = {}
        waiting = []
        for session, x in ticks:
            taken[session.number] = taken.get(session.number, 0) + 1
            number = seq or session.last_seq + taken[session.number]
            tick = Tick(model, session, session.epoch, number, np.nan, np.array([x], np.float32), 0.0)
            waiting.append(self.serving.ticks.submit(tick))
        answers = await asyncio.gather(*waiting)
        taken_in = [answer for answer in answers if isinstance(answer, Answer)]
        assert len(taken_in) == len(answers), answers
        return taken_in

    async def publish(self, model: ServedModel, seed: int) -> int:
        """Put random weights into service, judged up to the journal's durable end. Returns the version."""
        rng = np.random.default_rng(seed)
        flat = model.network.init_params()
        flat += rng.normal(0, 0.3, flat.shape).astype(np.float32)
        made = export(model.network, model.network.weights(flat))
        await self.verdict(model, "publish", made.onnx, made.weights, made.canary)
        return model.champion

    async def verdict(
        self,
        model: ServedModel,
        verdict: str,
        *files: bytes,
        rollback: int = 0,
        offset: int | None = None,
        numbers: Mapping[str, float] | None = None,
    ) -> None:
        """Apply the verdict of a trainer that has learned up to `offset`, by default the journal's durable end."""
        offset = self.server.journal.durable_offset(model.number) if offset is None else offset
        message = Verdict(model.number, offset, verdict, "a test's", numbers or {}, rollback, 0.0, *files)
        await self.server.publisher.apply(message)

    # ---- the trainer

    @property
    def trainer(self) -> Trainer:
        """The running trainer."""
        assert self._trainer is not None, "no trainer runs: `learn` or `start_trainer` comes first"
        return self._trainer

    @property
    def sent(self) -> deque[Message]:
        """The trainer's messages that serving has not handled."""
        assert isinstance(self.trainer.channel, Pipes)
        return self.trainer.channel.sent

    async def start_trainer(self) -> Trainer:
        """Start a trainer from the last checkpoint, as after a crash; the former one is dropped as it is."""
        self.stop_trainer()
        settings = self.server.learning.trainer_settings("trainer.db")
        opened = open_or_set_aside(Path(settings.data) / settings.checkpoint, settings.gate)
        self._checkpoints = opened.checkpoints
        channel: Any = Pipes(self.server)  # it has the methods of a Channel that a trainer uses
        self._trainer = trainer = Trainer(channel, opened, settings)
        if why := self.server.trainers.clients[0].out_of_reach(trainer.position):  # as TrainerClient does
            trainer.handle(await self.server.learning.prepare_restart(why))
        return trainer

    def stop_trainer(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.close()
        self._checkpoints = self._trainer = None

    async def learn(self) -> list[Verdict]:
        """Feed the trainer everything durable, and serving all that the trainer sends; returns the verdicts."""
        await self.server.journal.flush()
        trainer = self._trainer or await self.start_trainer()
        for chunk in self.chunks(trainer.position):
            trainer.handle(chunk)
        trainer.verdicts.give()
        pipes, verdicts = trainer.channel, []
        assert isinstance(pipes, Pipes)
        while pipes.sent:
            message = pipes.sent.popleft()
            await self.server.learning.handle(message)
            if isinstance(message, Verdict):
                verdicts.append(message)
        return verdicts

    def chunks(self, position: int) -> Iterator[LearnChunk]:
        """Yield the durable chunks from a journal position on, as a trainer gets them."""
        for end, payload in self.server.journal.read(position, 1 << 30):
            if chunk_head(payload)[0] != SHARD:
                yield LearnChunk(end, end, False, payload)

    async def snapshot(self) -> None:
        await self.server.upkeep.save()


@contextlib.asynccontextmanager
async def running(made: W) -> AsyncIterator[W]:
    """Run the journal of a world, and close all at the end."""
    writer = asyncio.create_task(made.server.journal.run())
    try:
        yield made
    finally:
        made.stop_trainer()
        await made.server.stop([writer])


@contextlib.asynccontextmanager
async def world(data: Path, **settings: Any) -> AsyncIterator[World]:
    """A world on a data directory, recovered from it; closed without a last snapshot or checkpoint."""
    async with running(World(data, **settings)) as made:
        yield made
