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
from service.common.errors import Invalid, NotFound, Unavailable
from service.common.names import ModelKey
from service.common.slices import parse, slice_of, wanted
from service.journal.records import Gathered, Label, Reset, Slice, StateDelete, StatePut, Ticks
from service.server.config import ConfigError, load
from service.serving.catalog import Catalog
from service.serving.erasure import check_erasable
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
    def part(self) -> Slice:
        assert self.model.slices.part is not None
        return self.model.slices.part

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


async def learn(found: Sequence[Place]) -> None:
    """Let the home learn what is durable in its slices, and them follow."""
    await look(found)
    await found[0].world.learn()
    await look(found)


async def some_ticks(slices: Sequence[Place], rng: np.random.Generator, count: int = 24) -> set[int]:
    """Send ticks to both slices in turn; returns the versions that answered."""
    return {(await slices[n % 2].tick(f"pump-{n % 6}", float(rng.normal())))[0] for n in range(count)}


def check_learned(store: Store, home: Place, ticks: int = 0) -> None:
    """The trainer's weights are those of a replay of the home's journal, which has each slice's entries in order."""
    learner, folder = home.world.trainer.models[1], home.world.opened.folder
    gate = home.world.server.learning.trainer_settings("").gate
    chunks = [chunk for chunk in journal(store, HOME) if chunk.model == 1]
    again = replay.learned(chunks, replay.Files.of(folder), gate, learner.offset)
    assert again.learner.weights.flat.tobytes() == learner.learner.weights.flat.tobytes()
    gathered = said(chunks, None)
    assert learner.learner.counts.ticks == sum(each[0] is Ticks for each in gathered)
    assert not ticks or learner.learner.counts.ticks == ticks
    for index in range(COUNT):
        its = [chunk for chunk in journal(store, shard_of_slice(HOME, index, SHARDS)) if chunk.model == 1]
        assert of_slice(gathered, index) == said(its, index)


async def test_the_home_learns_what_its_slices_serve_and_each_answer_is_that_of_the_version_it_names(store, tmp_path):
    rng, answers = np.random.default_rng(5), {}
    async with places(store, tmp_path) as found:
        home, *slices = found
        for n in range(120):
            stream = f"pump-{n % 6}"
            answers[stream, n // 6 + 1] = await slices[n % 2].tick(stream, float(rng.normal()))
            if n % 12 == 11:
                await learn(found)
        assert [each.model.champion for each in slices] == [home.model.champion] * COUNT
        check_learned(store, home, 120)
        files = [replay.Files.of(each.world.opened.folder) for each in found]
    assert len({version for version, _ in answers.values()}) > 3
    assert all(own.weights[n] == files[0].weights[n] for own in files[1:] for n in own.weights)
    for index in range(COUNT):
        its = [chunk for chunk in journal(store, shard_of_slice(HOME, index, SHARDS)) if chunk.model == 1]
        for tick, expected in replay.served(its, files[index + 1]).answers.items():
            version, y = answers.pop(tick)
            assert (version, y.tobytes()) == (expected.version, expected.y.tobytes())
    assert not answers


async def test_resets_deletions_labels_and_put_states_are_learned_in_their_order(store, tmp_path):
    async with places(store, tmp_path) as found:
        home, first, second = found
        rng = np.random.default_rng(3)
        await some_ticks(found[1:], rng)
        state = np.full(first.model.network.state_size, 0.01, np.float32)
        first.world.serving.opening.reset(first.model, first.model.session("pump-0"))
        first.world.serving.opening.put(first.model, "pump-2", 1, 100, np.nan, state)
        second.world.serving.opening.delete(second.model, "pump-1")
        await some_ticks(found[1:], rng)
        await learn(found)
        check_learned(store, home, 48)
        kinds = {each[0] for each in said(journal(store, HOME), None)}
        assert kinds == {Ticks, Reset, StatePut, StateDelete}


async def test_labels_from_outside_are_learned(store, tmp_path):
    async with contextlib.AsyncExitStack() as stack:
        home = await stack.enter_async_context(place(store, tmp_path / "home", HOME))
        await home.world.model(task="regress", targets=["t"])
        one = await stack.enter_async_context(place(store, tmp_path / "one", shard_of_slice(HOME, 1, SHARDS)))
        await one.slicing.ensure(key("flow"), 1)
        for n in range(30):
            await one.tick("pump", float(np.sin(n)))
            one.world.server.intake.label(one.model, "pump", n + 1, np.array([np.cos(n)], np.float32))
        await learn([home, one])
        assert home.world.trainer.models[1].learner.counts.learned == 30
        refused = home.world.server.intake.label(home.model, "pump", 1, np.zeros(1, np.float32))
        assert "send the label in its stream's own call" in str(refused)


async def test_a_home_that_is_opened_elsewhere_learns_nothing_twice_and_leaves_nothing_out(store, tmp_path):
    rng = np.random.default_rng(7)
    async with contextlib.AsyncExitStack() as stack:
        async with place(store, tmp_path / "home", HOME) as home:
            await home.world.model()
            slices = []
            for index in range(COUNT):
                number = shard_of_slice(HOME, index, SHARDS)
                slices.append(await stack.enter_async_context(place(store, tmp_path / f"{index}", number)))
                await slices[-1].slicing.ensure(key("flow"), index)
            await some_ticks(slices, rng)
            await learn([home, *slices])
            await home.world.snapshot()
            await home.world.keeper.make_image()
            await some_ticks(slices, rng)
            await look([home, *slices])
            await some_ticks(slices, rng)
        async with place(store, tmp_path / "other", HOME, "127.0.0.1:50052") as home:
            assert home.model.slices.count == COUNT
            await learn([home, *slices])
            versions = await some_ticks(slices, rng)
            await learn([home, *slices])
            check_learned(store, home, 96)
            assert versions == {slices[0].model.champion - 1}


async def test_a_slice_that_is_opened_elsewhere_follows_back_to_a_version_that_it_never_had(store, tmp_path):
    rng = np.random.default_rng(9)
    async with contextlib.AsyncExitStack() as stack:
        home = await stack.enter_async_context(place(store, tmp_path / "home", HOME))
        await home.world.model()
        await home.world.publish(home.model, seed=1)  # 2
        second = await stack.enter_async_context(place(store, tmp_path / "second", shard_of_slice(HOME, 1, SHARDS)))
        async with place(store, tmp_path / "first", shard_of_slice(HOME, 0, SHARDS)) as first:
            await home.slicing.step()
            for index, each in enumerate((first, second)):
                await each.slicing.ensure(key("flow"), index)
            await home.world.publish(home.model, seed=2)  # 3: no slice looks
            await home.world.publish(home.model, seed=3)
            await look([home, first, second])
            await some_ticks([first, second], rng)
            await look([home, first, second])
            assert first.model.champion == 4
        async with place(store, tmp_path / "again", shard_of_slice(HOME, 0, SHARDS), "127.0.0.1:50052") as first:
            assert (first.model.champion, first.part.index) == (4, 0)
            await home.world.control.roll_back(key("flow"), 3)
            await look([home, first, second])
            assert await some_ticks([first, second], rng) == {3}
            check_same = replay.Files.of(first.world.opened.folder).weights[3]
            assert check_same == replay.Files.of(home.world.opened.folder).weights[3]
        async with place(store, tmp_path / "third", shard_of_slice(HOME, 0, SHARDS)) as first:
            assert first.model.champion == 3
            assert await some_ticks([first, second], rng) == {3}
            await learn([home, first, second])
            check_learned(store, home, 72)


async def test_labels_of_a_slice_are_judged_once_its_home_has_judged_them_and_freshness_is_per_slice(store, tmp_path):
    rng = np.random.default_rng(2)
    async with places(store, tmp_path) as found:
        home, first, second = found
        await some_ticks([first, second], rng)
        for each in (first, second):
            await each.world.server.journal.flush()
        await first.slicing.step()
        await home.slicing.step()
        await first.tick("pump-0", 1.0)
        await home.world.learn()
        await look([home, first, second])
        session = first.model.session("pump-0")
        assert (session.last_seq, session.judged) == (5, 4), "the last tick was not in the home's journal"
        assert second.model.session("pump-1").judged == 4
        for each, waits in ((first, True), (second, False)):
            text = each.world.server.registry.text().decode()
            counted = [line for line in text.splitlines() if line.startswith("freshet_label_to_serving_seconds_count")]
            assert counted
            assert float(counted[0].split()[-1]) > 0
            assert bool(each.world.server.publishing.freshness.waiting(each.model.number)) == waits


async def test_a_deleted_model_is_deleted_in_its_slices_and_only_then_made_again(store, tmp_path):
    async with places(store, tmp_path) as found:
        home, *slices = found
        await some_ticks(slices, np.random.default_rng(1))
        await home.world.control.delete(key("flow"))
        with pytest.raises(Unavailable, match="slices of a deleted model of this name are still being removed"):
            await home.world.model(hidden=5)
        await look(found)
        assert all(key("flow") not in each.world.serving.catalog.by_key for each in slices)
        with pytest.raises(NotFound):
            await slices[0].slicing.ensure(key("flow"), 0)
        made = await home.world.model(hidden=5)
        await slices[0].slicing.ensure(key("flow"), 0)
        await look(found)
        assert (made.number, slices[0].part.home) == (2, 2)
        assert (await slices[0].tick("pump-0", 1.0))[0] == 1


async def test_a_home_that_is_opened_after_a_deletion_tells_the_slices(store, tmp_path):
    async with contextlib.AsyncExitStack() as stack:
        async with place(store, tmp_path / "home", HOME) as home:
            await home.world.model()
            one = await stack.enter_async_context(place(store, tmp_path / "one", shard_of_slice(HOME, 0, SHARDS)))
            await one.slicing.ensure(key("flow"), 0)
            await home.world.control.delete(key("flow"))
        async with place(store, tmp_path / "again", HOME) as home:
            await look([home, one])
            assert not one.world.serving.catalog.by_key


async def test_changes_of_settings_reach_the_slices(store, tmp_path):
    async with places(store, tmp_path) as found:
        await found[0].world.control.update(key("flow"), {"clip": 2.5})
        await look(found)
        assert [each.model.spec.clip for each in found] == [2.5] * 3


async def test_a_slices_journal_is_kept_in_the_store_until_its_home_has_read_it(store, tmp_path):
    rng = np.random.default_rng(4)
    async with places(store, tmp_path) as found:
        home, first, second = found
        number = shard_of_slice(HOME, 0, SHARDS)
        for _ in range(3):
            await some_ticks([first, second], rng)
            await first.world.server.journal.flush()
            await first.world.snapshot()
            await first.world.server.journal.begin_segment()
            await first.world.keeper.make_image()
        assert store.extents(number, 0)[0].offset == 0
        await learn(found)
        for _ in range(3):
            await first.world.keeper.make_image()
        assert first.slicing.follower.needed()
        check_learned_ticks = home.world.trainer.models[1].learner.counts.ticks
        assert check_learned_ticks == 36 + 36


async def test_a_quiet_slice_holds_the_journal_of_its_shard_for_a_short_time_only(store, tmp_path):
    async with places(store, tmp_path) as found:
        home, first, second = found
        await some_ticks([first, second], np.random.default_rng(4))
        await look(found)
        await first.world.model("other")
        await look(found)
        await look(found)
        end, held = first.world.server.journal.durable_position, first.slicing.follower.needed()
        assert held is not None
        assert held < end
        now = home.world.clock()
        home.world.clock = lambda: now + 31.0
        await first.world.model("another")
        end = first.world.server.journal.durable_position
        await look(found)
        await look(found)
        assert first.slicing.follower.needed() == end


async def test_a_home_that_finds_entries_missing_learns_nothing_after_them_and_says_so(store, tmp_path, caplog):
    async with places(store, tmp_path) as found:
        home, first, second = found
        await some_ticks([first, second], np.random.default_rng(4))
        await learn(found)
        await some_ticks([first, second], np.random.default_rng(4))
        number = shard_of_slice(HOME, 0, SHARDS)
        await first.world.server.journal.flush()
        last = store.extents(number, 0)[-1]
        for value in (1.0, 2.0):  # an entry that will be missing too, and one behind the gap
            await first.tick("pump-0", value)
            await first.world.server.journal.flush()
        store.trim(number, last.offset + last.size + 1, set())
        await learn(found)
        ticks = home.world.trainer.models[1].learner.counts.ticks
        assert ticks == 24 + 12, "those of the other slice"
        assert [each.slicing.waiting for each in found] == [1, 0, 0]


async def test_a_batch_without_its_record_would_be_learned_twice(store, tmp_path, monkeypatch):
    """A mutant: how far a slice is read is not journaled."""
    rng = np.random.default_rng(7)
    record = Catalog.record

    def without(self: Catalog, model: ServedModel, what: object) -> int:
        return 0 if isinstance(what, Gathered) and what.model else record(self, model, what)  # type: ignore[arg-type]

    monkeypatch.setattr(Catalog, "record", without)
    async with contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(place(store, tmp_path / "one", shard_of_slice(HOME, 0, SHARDS)))
        two = await stack.enter_async_context(place(store, tmp_path / "two", shard_of_slice(HOME, 1, SHARDS)))
        async with place(store, tmp_path / "home", HOME) as home:
            await home.world.model()
            for index, each in enumerate((one, two)):
                await each.slicing.ensure(key("flow"), index)
            await some_ticks([one, two], rng)
            await learn([home, one, two])
        async with place(store, tmp_path / "other", HOME) as home:
            await learn([home, one, two])
            with pytest.raises(AssertionError):
                check_learned(store, home, 24)


async def test_the_number_of_slices_is_decided_once_and_kept(store, tmp_path):
    counts = Counts(store, "flow=2, acme/level=3", SHARDS)
    assert [await counts.decide(key(name)) for name in ("flow", "level", "rain")] == [2, 0, 0]
    assert await counts.decide(ModelKey("acme", "level")) == 3
    other = Counts(store, "flow=3", SHARDS)
    assert [await other.of(key(name)) for name in ("flow", "level")] == [2, 0]
    assert await other.decide(key("flow")) == 2
    with pytest.raises(Invalid, match="the cluster has 4 shards: give at most 3"):
        await Counts(store, "rain=4", SHARDS).decide(key("rain"))


@pytest.mark.parametrize("text", ["flow", "flow=", "=2", "flow=0", "flow=65", "flow=two"])
def test_a_setting_that_names_no_number_is_refused(text):
    with pytest.raises(ValueError, match="give MODEL=N or TENANT/MODEL=N, N from 1 to 64"):
        parse(text)


def test_a_single_server_has_no_slices():
    with pytest.raises(ConfigError, match="slices = 'flow=2': a single server has no shards; give a store"):
        load({"slices": "flow=2"})


def test_streams_are_spread_over_all_slices():
    found = [slice_of(f"pump-{n}", 3) for n in range(300)]
    assert all(60 <= found.count(index) <= 140 for index in range(3))
    assert wanted(parse(""), key("flow")) == 1


async def test_a_shadow_has_no_slices_and_a_model_with_slices_no_shadow(store, tmp_path):
    async with place(store, tmp_path / "home", HOME) as home:
        await home.world.model()
        with pytest.raises(Invalid, match="its streams are served in slices"):
            await home.world.model("try", shadow="flow")
        with pytest.raises(Invalid, match="served by 2 slices: name a stream"):
            home.world.open(home.model, "pump")
        with pytest.raises(Invalid, match="cannot be erased yet"):
            check_erasable(home.model)
