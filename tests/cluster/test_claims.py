"""One node owns a shard: of several claimants one wins, and a former owner writes nothing after the claim."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.cluster.shards import names, opening
from service.cluster.shards.opening import Claimed, OpenedShard, Prepared, Stale, open_shard, prepare
from service.cluster.shards.owner import Owner, hint, owner_of
from service.cluster.shards.tail import ClaimAt
from service.cluster.store.seam import Conflict, Extent, Store, StoreUnavailable
from service.journal.records import Paused
from service.journal.segments import encode_commit
from service.journal.writer import JournalFailed
from tests.cluster.shard_world import NODE, ShardWorld, shard
from tests.service.one_process import World
from tests.service.test_recovery import seen

OTHER = "127.0.0.1:50052"


async def some_ticks(live: World, count: int = 3) -> None:
    model = await live.model()
    await live.serving.residency.bring(model, ["pump"])
    session = live.open(model, "pump")
    for n in range(count):
        await live.tick(model, session, float(n))
        await live.server.journal.flush()


async def only_the_end_is_needed(live: ShardWorld) -> None:
    """Let snapshot, checkpoint and a new image contain all, and drop the journal before them."""
    begin = await live.server.journal.begin_segment()
    await live.learn()
    live.trainer.save()
    await live.snapshot()
    await live.server.journal.retain(begin, 0, 0.0, 1e12)
    await live.keeper.make_image()


def claims_in(store: Store) -> list[int]:
    """Return the epochs of the claims in the journal, in order."""
    return [claim.epoch for claim in prepare_anywhere(store)]


def prepare_anywhere(store: Store) -> list[ClaimAt]:
    folder = Path(store.url.removeprefix("file://")).parent / f"look-{threading.get_ident()}"
    prepared = prepare(store, 3, folder)
    prepared.close()
    return prepared.facts.claims


@pytest.mark.parametrize("addresses", [[NODE, OTHER], [f"127.0.0.1:{n + 1}" for n in range(5)], [NODE, NODE]])
def test_of_claimants_at_once_one_wins_and_the_others_are_told_who(store, tmp_path, addresses):
    """Also of two processes that were given the same address by mistake."""
    claimants = len(addresses)
    ready = threading.Barrier(claimants)
    prepared = [prepare(store, 3, tmp_path / f"n{n}") for n in range(claimants)]

    def claim(n: int) -> OpenedShard | Claimed:
        ready.wait(timeout=60)
        try:
            return prepared[n].claim(addresses[n])
        except Claimed as claimed:
            return claimed

    with ThreadPoolExecutor(claimants) as pool:
        outcomes = list(pool.map(claim, range(claimants)))
    for one in prepared:
        one.close()

    [winner] = [outcome for outcome in outcomes if isinstance(outcome, OpenedShard)]
    losers = [outcome for outcome in outcomes if isinstance(outcome, Claimed)]
    assert len(losers) == claimants - 1
    assert {(loser.by, loser.epoch) for loser in losers} == {(winner.node, 1)}
    assert claims_in(store) == [1]


def test_a_claim_over_an_owner_that_is_not_the_newest_is_refused(store, tmp_path):
    open_shard(store, 3, tmp_path / "one", NODE).log.close()
    open_shard(store, 3, tmp_path / "two", OTHER).log.close()

    with pytest.raises(Claimed) as refused:
        open_shard(store, 3, tmp_path / "three", "127.0.0.1:50053", over=1)

    assert (refused.value.by, refused.value.epoch) == (OTHER, 2)
    with pytest.raises(Claimed):  # also one with its address: it may be a second process
        open_shard(store, 3, tmp_path / "five", OTHER, over=1)
    assert open_shard(store, 3, tmp_path / "four", OTHER, over=2).epoch == 3


MUTANTS = ["with a claim", "no claim frame"]


@pytest.mark.parametrize("is_mutant", [False, True], ids=MUTANTS)
async def test_what_a_former_owner_appends_after_a_claim_conflicts(store, tmp_path, monkeypatch, is_mutant):
    if is_mutant:
        monkeypatch.setattr(Prepared, "_offer", lambda self, node, epoch: ClaimAt(epoch, node, Extent(self.log.end, 1)))
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one)
        before = len(store.extents(3, 0))
        await asyncio.to_thread(open_and_close, store, tmp_path / "two")

        journal = one.server.journal
        journal.append(1, Paused())
        if is_mutant:
            await journal.flush()  # acknowledged by a node that does not own the shard
            return
        with pytest.raises(JournalFailed):
            await journal.flush()

        assert journal.failure is not None
        assert isinstance(journal.failure.__cause__, Conflict)
        assert len(store.extents(3, 0)) == before + 1
        with pytest.raises(JournalFailed):
            journal.append(1, Paused())


def open_and_close(store: Store, folder: Path) -> None:
    open_shard(store, 3, folder, OTHER).log.close()


async def test_it_conflicts_also_after_everything_around_the_claim_was_trimmed(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one)
        zombie = one.server.journal
        async with shard(store, tmp_path / "two", OTHER) as two:
            for _ in range(4):
                await some_ticks(two)
                await only_the_end_is_needed(two)
            first, *others = store.extents(3, 0)
            assert zombie.durable_position == one.opened.log.end
            claims = [claim.extent for claim in two.opened.facts.claims]
            assert [first, *others][:2] == claims
            assert others[1].offset > claims[1].offset + claims[1].size

        zombie.append(1, Paused())
        with pytest.raises(JournalFailed):
            await zombie.flush()

        assert zombie.failure is not None
        assert isinstance(zombie.failure.__cause__, Conflict)


async def test_an_image_of_a_former_owner_is_never_found(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one)
        await asyncio.to_thread(open_and_close, store, tmp_path / "two")

        with pytest.raises(JournalFailed):
            await one.keeper.make_image()

    assert store.list(names.images(3)) == []


@pytest.mark.parametrize("is_trimmed", [False, True], ids=["all is there", "trimmed"])
async def test_a_former_owner_that_looks_for_losses_finds_that_it_was_succeeded(store, tmp_path, is_trimmed):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one)
        await one.keeper.scrub()
        await some_ticks(one)
        await asyncio.to_thread(open_and_close, store, tmp_path / "two")
        if is_trimmed:
            store.trim(3, one.opened.log.end, set())

        with pytest.raises(Conflict, match=f"claimed by {OTHER} in epoch 2"):
            await one.keeper.scrub()
        assert one.server.journal.failure is not None
        assert isinstance(one.server.journal.failure.__cause__, Conflict)


async def test_a_claimant_that_slept_while_its_offset_was_trimmed_does_not_own_the_shard(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one)
        sleeper = await asyncio.to_thread(prepare, store, 3, tmp_path / "two")
        await some_ticks(one)
        store.trim(3, store.extents(3, 0)[-1].offset, {0})  # as the owner does meanwhile

        with pytest.raises(Stale):
            await asyncio.to_thread(sleeper._offer, OTHER, 2)  # it has listed long ago

        sleeper.close()
        await some_ticks(one)
        assert one.server.journal.failure is None


def test_a_claim_whose_answer_is_lost_is_known_again(store, tmp_path):
    store.errors_after["claim"] = 1

    opened = open_shard(store, 3, tmp_path / "one", NODE)
    opened.log.close()

    assert (opened.epoch, claims_in(store)) == (1, [1])


def test_a_claim_that_was_never_answered_is_followed_by_another_of_the_same_node(store, tmp_path):
    store.errors_after["claim"] = opening.OFFERS
    with pytest.raises(StoreUnavailable):
        open_shard(store, 3, tmp_path / "one", NODE)
    with pytest.raises(Claimed) as refused:
        open_shard(store, 3, tmp_path / "one", NODE, over=0)
    assert (refused.value.by, refused.value.epoch) == (NODE, 1)

    opened = open_shard(store, 3, tmp_path / "one", NODE, over=1)
    opened.log.close()

    assert (opened.epoch, claims_in(store)) == (2, [1, 2])


def test_an_epoch_that_only_the_store_knows_is_passed(store, tmp_path, monkeypatch):
    """As where an entry of a claim was trimmed: the store refuses its epoch, and no entry tells of it."""
    claim = store.inner.claim

    def fenced(shard: int, offset: int, epoch: int, data: bytes) -> None:
        if epoch < 4:
            raise Conflict("the shard's epoch is 3 or more")
        claim(shard, offset, epoch, data)

    monkeypatch.setattr(store.inner, "claim", fenced)

    opened = open_shard(store, 3, tmp_path / "one", NODE)
    opened.log.close()

    assert opened.epoch == 4


async def test_a_folder_that_follows_claims_without_reading_everything_again(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one, 20)
        standby = await asyncio.to_thread(prepare, store, 3, tmp_path / "two")
        await some_ticks(one, 2)
        expected = seen(one)
    store.read_bytes = 0

    opened = await asyncio.to_thread(standby.claim, OTHER)
    opened.log.close()

    assert store.read_bytes < 1500
    async with shard(store, tmp_path / "two", OTHER) as two:
        assert seen(two) == expected


async def test_a_folder_that_fell_behind_what_was_trimmed_begins_from_a_newer_image(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one)
        standby = await asyncio.to_thread(prepare, store, 3, tmp_path / "two")
        for _ in range(3):
            await some_ticks(one)
            await only_the_end_is_needed(one)
        expected = seen(one)

        with pytest.raises(Stale):
            await asyncio.to_thread(standby.claim, OTHER)
        standby.close()

    async with shard(store, tmp_path / "two", OTHER) as two:
        assert {n: m.offset for n, m in seen(two).items()} == {n: m.offset for n, m in expected.items()}


# ---- finding the owner


def test_the_owner_is_found_by_hints_or_by_reading(store, tmp_path):
    assert owner_of(store, 3) is None
    for n, node in enumerate([NODE, OTHER]):
        open_shard(store, 3, tmp_path / f"n{n}", node).log.close()
    by_hint = owner_of(store, 3)
    assert by_hint == Owner(OTHER, 2, prepare_anywhere(store)[-1].extent.offset)

    store.delete([listed.name for listed in store.list(names.claims(3))])

    assert owner_of(store, 3) == by_hint


def test_a_hint_of_a_claim_that_is_not_there_is_not_believed(store, tmp_path):
    open_shard(store, 3, tmp_path / "one", NODE).log.close()

    hint(store, 3, ClaimAt(7, OTHER, Extent(12345, 80)))
    hint(store, 3, ClaimAt(6, OTHER, store.extents(3, 0)[0]))

    found = owner_of(store, 3)
    assert found is not None
    assert (found.address, found.epoch) == (NODE, 1)


async def test_hints_of_long_ago_are_removed(store, tmp_path):
    for n in range(12):
        open_shard(store, 3, tmp_path / "one", f"127.0.0.1:{n}").log.close()
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one)
        await one.keeper.make_image()

    assert len(store.list(names.claims(3))) <= 8


def test_frames_of_a_claim_fit_what_is_read_when_there_is_no_hint():
    frames, _ = encode_commit([bytes(64 + 255)], 0)
    assert len(frames) < 1024
