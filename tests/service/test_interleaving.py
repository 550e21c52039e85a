"""In any order of models, and wherever a trainer dies, each model has the weights that its own records define."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from service.journal.records import ModelCreate, decode_chunk
from service.learning.fair import Fair
from service.learning.queues import Queues, Waiting
from service.trainer.hosting import HostedModel
from service.trainer.messages import LearnChunk
from tests.conftest import seeds
from tests.service.histories import digest
from tests.service.one_process import World, world


async def journal_of(live: World, rng: random.Random) -> None:
    """Three models, each with ticks of its own streams, sometimes thinned to one in two."""
    models = [await live.model(name, seed=n) for n, name in enumerate(("flow", "heat", "load"))]
    live.server.journal.learn_every_of = lambda model: rng.choice([1, 1, 2])
    for _ in range(40):
        model = rng.choice(models)
        streams = [live.open(model, f"{model.name}-{n}") for n in range(rng.randrange(1, 4))]
        for _ in range(rng.randrange(1, 4)):
            await live.ticks(model, [(stream, rng.gauss(0, 1)) for stream in streams])
        if rng.random() < 0.7:
            await live.server.journal.flush()
    await live.server.journal.flush()


def folded(live: World) -> dict[int, str]:
    """Learn each model alone, from its own chunks."""
    models: dict[int, HostedModel] = {}
    for _, payload in live.server.journal.read(0, 1 << 30):
        chunk = decode_chunk(payload)
        if chunk.model not in models:
            first = chunk.records[0]
            assert isinstance(first, ModelCreate)
            models[chunk.model] = HostedModel.create(chunk.model, first, live.server.config.gate)
        models[chunk.model].apply(chunk, lambda model, version: weights(live, model, version))
    return {number: digest(hosted) for number, hosted in models.items()}


def weights(live: World, model: int, version: int) -> np.ndarray:
    from service.engine.export import read_weights

    return read_weights(live.serving.catalog.models[model].network, live.server.versions.blobs(model, version).weights)


class Feeding:
    """A trainer and the queues that feed it. position_of: the journal position sent with a chunk, before which the
    trainer needs nothing again."""

    def __init__(self, live: World, position_of: Callable[[Queues, Waiting], int]) -> None:
        self.live, self.position_of, self.queues = live, position_of, Queues(lambda model: True)

    async def start(self) -> None:
        """Start the trainer from its last checkpoint; a former one dies."""
        self.trainer = await self.live.start_trainer()
        offsets = {number: stands.offset for number, stands in self.trainer.models.standing.items()}
        self.queues.restart(self.trainer.position, offsets)

    def scan(self, size: int) -> None:
        self.queues.scan(self.live.server.journal.read(self.queues.scanned, size))

    def send(self, model: int) -> None:
        chunk = self.queues.pop(model)
        self.trainer.handle(LearnChunk(chunk.end, self.position_of(self.queues, chunk), True, chunk.payload))

    def learned(self) -> dict[int, str]:
        return {number: digest(self.trainer.models[number]) for number in self.live.serving.catalog.models}


def before_all_that_was_not_sent(queues: Queues, chunk: Waiting) -> int:
    return queues.resume


def after_the_chunk(queues: Queues, chunk: Waiting) -> int:
    return chunk.end


async def learn_in_some_order(live: World, rng: random.Random, deaths: float) -> dict[int, str]:
    """Feed trainers chunk by chunk, the models in an order that chance decides; some die, and go on from what they
    saved."""
    feeding = Feeding(live, before_all_that_was_not_sent)
    await feeding.start()
    queues = feeding.queues
    while True:
        if queues.scanned < live.server.journal.durable_position and rng.random() < 0.5:
            feeding.scan(3000)
        ready = [model for model in live.serving.catalog.models if queues.has(model)]
        if not ready:
            if queues.scanned == live.server.journal.durable_position:
                break
            continue
        feeding.send(rng.choice(ready))
        if rng.random() < deaths:
            await feeding.start()
    return feeding.learned()


@seeds(4)
async def test_each_models_weights_are_those_of_its_own_records_in_any_order_and_after_deaths(tmp_path, seed):
    rng = random.Random(seed)
    async with world(tmp_path / "data", checkpoint_chunks=3) as live:
        await journal_of(live, rng)
        expected = folded(live)

        assert await learn_in_some_order(live, rng, deaths=0.3) == expected


@pytest.mark.parametrize(
    ("position_of", "is_right"), [(before_all_that_was_not_sent, True), (after_the_chunk, False)]
)  # fmt: skip
async def test_a_checkpoint_that_named_the_last_chunk_as_its_position_would_be_noticed(tmp_path, position_of, is_right):
    """One model has learned all, up to the journal's end, and the other only its first chunk when the trainer dies."""
    async with world(tmp_path / "data") as live:
        slow, quick = [await live.model(name, seed=n) for n, name in enumerate(("flow", "heat"))]
        for n in range(8):
            for model in (slow, quick):  # a commit each, so that the last chunk is of the quick one
                await live.tick(model, live.open(model, "pump"), float(n % 3))
                await live.server.journal.flush()
        expected = folded(live)
        feeding = Feeding(live, position_of)
        await feeding.start()
        feeding.scan(1 << 30)
        feeding.send(slow.number)
        for model in (quick, slow):
            while feeding.queues.has(model.number):
                feeding.send(model.number)
            if model is quick:
                assert feeding.trainer.save(), "the schedule saves later where a save takes long"
                await feeding.start()
                feeding.scan(1 << 30)

        assert (feeding.learned() == expected) is is_right


async def test_chunks_that_the_checkpoint_holds_are_passed_over_when_they_are_sent_again(tmp_path):
    async with world(tmp_path / "data", checkpoint_chunks=1) as live:
        model = await live.model()
        session = live.open(model, "pump")
        for n in range(20):
            await live.tick(model, session, float(n % 3))
        await live.learn()
        before = digest(live.trainer.models[model.number])

        for chunk in live.chunks(0):
            live.trainer.handle(chunk)

        assert digest(live.trainer.models[model.number]) == before
        assert model.number not in list(live.trainer.pending), "nothing of it is due a second time"


def test_fair_order_keeps_each_models_own():
    """The order of sending depends on what chunks cost; what a model learns does not."""
    rng, fair = random.Random(1), Fair()
    left = {model: list(range(20)) for model in range(3)}
    sent: dict[int, list[int]] = {model: [] for model in left}
    for model in left:
        fair.wait("acme", model)
    while turn := fair.next(lambda tenant: True):
        tenant, model = turn
        sent[model].append(left[model].pop(0))
        fair.charge(tenant, model, rng.random())
        if not left[model]:
            fair.rest(tenant, model)

    assert sent == {model: list(range(20)) for model in left}
