"""A model in slices: streams are served in several shards, and one journal says in which order they are learned."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from service.cluster.nodes.placing import shard_of
from service.cluster.slices.counts import Counts
from service.cluster.slices.names import shard_of_slice
from service.cluster.slices.slicing import Slicing
from service.cluster.store.directory import Directory
from service.cluster.store.seam import Store
from service.journal.records import Label, Reset, StateDelete, StatePut, Ticks
from service.streams.served import ServedModel
from tests.cluster.several import journal
from tests.cluster.shard_world import ShardWorld, shard
from tests.oracles import replay
from tests.service.one_process import key

SHARDS, COUNT = 4, 2
HOME = shard_of(key("flow"), SHARDS)


@pytest.fixture
def store(tmp_path) -> Store:
    return Directory(f"file://{tmp_path / 'store'}", tmp_path / "store")


class Place:
    """One shard, its slicing, and the model there."""

    def __init__(self, world: ShardWorld, store: Store, setting: str = f"flow={COUNT}") -> None:
        self.world = world
        self.slicing = Slicing(world.opened, Counts(store, setting, SHARDS), world.server, 0.0)
        world.keeper.needed = self.slicing.follower.needed

    @property
    def model(self) -> ServedModel:
        return self.world.serving.catalog.by_key[key("flow")]

    async def tick(self, stream: str, x: float) -> tuple[int, np.ndarray]:
        """Open a stream if it is not, send its next tick; returns the version named and the answer."""
        by_id = self.model.table.by_id
        session = self.model.session(stream) if stream in by_id else self.world.open(self.model, stream)
        answer = await self.world.tick(self.model, session, x)
        return answer.version, np.frombuffer(answer.y, np.float32)


@contextlib.asynccontextmanager
async def place(store: Store, folder: Path, number: int, node: str = "127.0.0.1:50051") -> AsyncIterator[Place]:
    async with shard(store, folder, node, number) as world:
        yield Place(world, store)


@contextlib.asynccontextmanager
async def places(store: Store, tmp_path: Path) -> AsyncIterator[list[Place]]:
    """The home, then the slices; the model is made in all of them."""
    async with contextlib.AsyncExitStack() as stack:
        home = await stack.enter_async_context(place(store, tmp_path / "home", HOME))
        await home.world.model()
        found = [home]
        for index in range(COUNT):
            number = shard_of_slice(HOME, index, SHARDS)
            found.append(await stack.enter_async_context(place(store, tmp_path / f"slice-{index}", number)))
            await found[-1].slicing.ensure(key("flow"), index)
        yield found


async def look(found: Sequence[Place]) -> None:
    """Make everything durable, then let each shard look at the store."""
    for each in found:
        await each.world.server.journal.flush()
    for each in found:
        await each.slicing.step()


def said(chunks, index: int | None) -> list[tuple[object, ...]]:
    """What records say of streams, in order; of a slice (index), under the numbers that its home gives them."""
    found: list[tuple[object, ...]] = []
    for chunk in chunks:
        for record in chunk.records:
            to = (lambda n: int(n)) if index is None else (lambda n: int(n) * COUNT + index)
            if isinstance(record, Ticks):
                ticks = zip(map(to, record.stream), record.seq.tolist(), record.x.tolist(), strict=True)
                found += [(Ticks, *tick) for tick in ticks]
            elif isinstance(record, Label | Reset | StateDelete | StatePut):
                found.append((type(record), to(record.stream)))
    return found


def of_slice(found: list[tuple[object, ...]], index: int) -> list[tuple[object, ...]]:
    return [each for each in found if int(str(each[1])) % COUNT == index]


async def test_the_home_learns_what_its_slices_serve_and_they_serve_what_it_publishes(store, tmp_path):
    rng = np.random.default_rng(5)
    versions = set()
    async with places(store, tmp_path) as found:
        home, *slices = found
        for n in range(120):
            version, _ = await slices[n % 2].tick(f"pump-{n % 6}", float(rng.normal()))
            versions.add(version)
            if n % 12 == 11:
                await look(found)
                await home.world.learn()
                await look(found)
        assert [each.model.champion for each in slices] == [home.model.champion] * COUNT
        assert home.model.champion > 3
        assert versions >= {1, 2, 3}
        assert home.world.trainer.models[1].learner.counts.ticks == 120
        weights, until = home.world.trainer.models[1].learner.weights.flat.copy(), home.world.trainer.models[1].offset
        files = replay.Files.of(home.world.opened.folder)
        gate = home.world.server.learning.trainer_settings("").gate
        own = [replay.Files.of(each.world.opened.folder) for each in slices]

    chunks = [chunk for chunk in journal(store, HOME) if chunk.model == 1]
    assert replay.learned(chunks, files, gate, until).learner.weights.flat.tobytes() == weights.tobytes()
    gathered = said(chunks, None)
    for index in range(COUNT):
        its = [chunk for chunk in journal(store, shard_of_slice(HOME, index, SHARDS)) if chunk.model == 1]
        assert of_slice(gathered, index) == said(its, index)
        assert replay.served(its, own[index]).answers
        assert {n: own[index].weights[n] for n in own[index].weights} == {
            n: files.weights[n] for n in own[index].weights
        }
