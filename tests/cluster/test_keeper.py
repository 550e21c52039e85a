"""The work on an owned shard: images share blocks, two are kept, and what nothing needs is removed."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cluster.shards import decisions, images, names
from service.cluster.shards.decisions import FIRST_S, TAIL_BYTES, first_image_s, garbage, is_image_due, trim_before
from service.cluster.shards.images import BLOCK_BYTES, FileBlocks, Image, Manifest
from service.cluster.shards.keeper import Keeper
from service.cluster.shards.opening import prepare
from service.cluster.shards.tail import ClaimAt
from service.cluster.store.seam import Extent, Missing, Store, StoreLost
from service.journal.writer import JournalFailed
from service.storage.disk import Unreachable
from tests.cluster.shard_world import ShardWorld, shard
from tests.cluster.test_claims import OTHER, only_the_end_is_needed, some_ticks
from tests.journeys.raw import DEADLINE_S
from tests.service.test_recovery import seen

CLAIMS = (ClaimAt(1, "10.0.0.7:50051", Extent(0, 80)), ClaimAt(4, "node ü", Extent(900, 80)))


def an_image(offset: int, begin: int, *blocks: str) -> Image:
    files = {"states.db": FileBlocks(len(blocks) * BLOCK_BYTES, blocks)}
    return Image(offset, f"0000000001-m{offset}", Manifest(3, 1, begin, 5, begin, begin, files, CLAIMS))


def blobs_in(store: Store) -> set[str]:
    return {listed.name.rpartition("/")[2] for listed in store.list(names.blobs(3))}


# ---- decisions


def test_an_image_is_due_after_its_time_if_something_was_written():
    assert is_image_due(now=40.0, last=10.0, every_s=30.0, position=11, imaged=10)
    assert not is_image_due(now=39.9, last=10.0, every_s=30.0, position=11, imaged=10)
    assert not is_image_due(now=99.0, last=10.0, every_s=30.0, position=10, imaged=10)


def test_an_owner_that_had_much_to_replay_makes_its_first_image_soon():
    assert first_image_s(tail=TAIL_BYTES, every_s=30.0) == 30.0
    assert first_image_s(tail=TAIL_BYTES + 1, every_s=30.0) == FIRST_S
    assert first_image_s(tail=TAIL_BYTES + 1, every_s=FIRST_S / 2) == FIRST_S / 2


async def test_the_first_image_after_a_long_tail_does_not_wait_for_the_period(store, tmp_path, monkeypatch):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one)
    monkeypatch.setattr(decisions, "TAIL_BYTES", 0)
    monkeypatch.setattr(decisions, "FIRST_S", 0.0)
    async with shard(store, tmp_path / "two", OTHER) as two:
        assert not two.keeper.image
        keeping = asyncio.create_task(two.keeper.run())
        async with asyncio.timeout(DEADLINE_S):
            while not two.keeper.image:
                await asyncio.sleep(0)
        keeping.cancel()


async def test_an_image_has_the_streams_as_they_are_now(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        one.keeper.save = one.server.upkeep.save_if_room
        await some_ticks(one)
        end = one.server.journal.durable_position
        assert (await one.keeper.make_image()).manifest.needed >= end


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 300))
def test_nothing_is_trimmed_that_the_older_image_needs(began, dropped, older, newer, keep_bytes):
    kept = [an_image(200, older), an_image(300, older + newer)]
    assert trim_before(kept, began, began + dropped, 200, keep_bytes) <= older
    for fewer in (kept[:1], []):
        assert trim_before(fewer, began, began + dropped, 200, keep_bytes) == 0


def test_what_former_owners_kept_stays_until_retention_wants_it_gone():
    kept = [an_image(200, 150), an_image(300, 180)]
    assert trim_before(kept, 100, 100, 200, keep_bytes=200) == 0
    assert trim_before(kept, 100, 120, 200, keep_bytes=200) == 120
    assert trim_before(kept, 100, 100, 200, keep_bytes=160) == 40
    assert trim_before(kept, 100, 100, 200, keep_bytes=164) == 30  # in steps of a sixteenth
    assert trim_before(kept, 100, 100, 200, keep_bytes=0) == 150


async def test_an_image_made_before_a_trainer_has_saved_needs_the_journal_from_its_start(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        model = await one.model()
        session = one.open(model, "pump")
        for n in range(5):
            await one.tick(model, session, float(n))
        await one.snapshot()
        one.keeper.learned = lambda: 0
        assert (await one.keeper.make_image()).manifest.begin == 0
        one.keeper.learned = lambda: one.server.journal.durable_position
        assert (await one.keeper.make_image()).manifest.begin > 0


def test_garbage_is_what_no_image_and_no_record_needs_of_this_and_earlier_epochs():
    kept = [an_image(200, 0, "0000000001-a", "0000000001-b"), an_image(300, 9, "0000000001-b", "0000000002-c")]
    found = ["0000000001-a", "0000000001-old", "0000000002-c", "0000000002-version", "0000000003-next", kept[0].word]

    assert garbage(found, kept, {"0000000002-version"}, epoch=2) == ["0000000001-old"]
    assert garbage(found, kept[1:], set(), epoch=2) == [
        "0000000001-a", "0000000001-old", "0000000002-version", kept[0].word,
    ]  # fmt: skip


def test_a_manifest_comes_back_and_another_format_is_refused():
    manifest = an_image(200, 7, "0000000001-a").manifest

    assert Manifest.decode(manifest.encode()) == manifest
    with pytest.raises(ValueError, match="an image in format 2"):
        Manifest.decode(manifest.encode().replace(b'"format": 1', b'"format": 2'))


# ---- images


def test_files_are_stored_once_for_equal_blocks_and_fetched_as_they_were(store, tmp_path):
    path = tmp_path / "states.db"
    block = bytes(range(256)) * (BLOCK_BYTES // 256)
    path.write_bytes(block * 3 + b"end")

    first = images.put_files(store, 3, 1, {"states.db": path}, set())
    path.write_bytes(block * 2 + b"other" + block[5:] + b"end")
    second = images.put_files(store, 3, 2, {"states.db": path}, set(first["states.db"].blocks))

    assert len(set(first["states.db"].blocks)) == 2
    assert sum(operation == "put" for operation, _ in store.calls) <= 3 + 2  # equal blocks may be put at once
    assert len(blobs_in(store)) == 3
    assert [word[:10] for word in second["states.db"].blocks] == ["0000000001"] * 2 + ["0000000002", "0000000001"]


async def test_two_images_are_kept_and_nothing_but_what_they_name(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        made = []
        for n in range(4):
            await some_ticks(one)
            await one.publish(await one.model(), n)
            await one.snapshot()
            made.append(await one.keeper.make_image())

        assert images.offsets(store, 3) == [image.offset for image in made[-2:]]
        named = {word for image in made[-2:] for word in (image.word, *image.manifest.blobs())}
        others = blobs_in(store) - named
        assert len(others) == 1  # the version that the older image is too old to be sure of
        assert images.newest(store, 3) == made[-1]
        with pytest.raises(Missing):
            images.load(store, 3, made[0].offset)


async def test_an_unchanged_database_costs_no_new_blocks(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one)
        await one.snapshot()
        first = await one.keeper.make_image()
        second = await one.keeper.make_image()

    assert second.manifest.files == first.manifest.files


async def test_the_next_owner_keeps_the_image_that_it_opened_and_its_blobs(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one)
        await one.snapshot()
        first = await one.keeper.make_image()
    async with shard(store, tmp_path / "two", OTHER) as two:
        await some_ticks(two)
        await two.snapshot()
        second = await two.keeper.make_image()

        assert images.offsets(store, 3) == [first.offset, second.offset]
        assert blobs_in(store) >= {first.word, *first.manifest.blobs(), *second.manifest.blobs()}
        assert second.manifest.claims == tuple(two.opened.facts.claims)
        assert [claim.epoch for claim in second.manifest.claims] == [1, 2]


async def test_a_pointer_that_a_former_owner_leaves_late_does_no_harm(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one)
        await only_the_end_is_needed(one)
        late = await one.keeper.make_image()
        store.delete([names.image_name(3, late.offset)])
    async with shard(store, tmp_path / "two", OTHER) as two:
        for _ in range(2):
            await some_ticks(two)
            await two.snapshot()
            await two.keeper.make_image()
        store.put(names.image_name(3, late.offset), late.word.encode())
        await some_ticks(two)
        newest = await two.keeper.make_image()
        expected = seen(two)

        assert images.newest(store, 3) == newest
        assert late.offset not in images.offsets(store, 3)
    async with shard(store, tmp_path / "three", "127.0.0.1:50053") as three:
        assert {n: m.offset for n, m in seen(three).items()} == {n: m.offset for n, m in expected.items()}


async def test_a_copy_that_is_read_while_images_change_is_of_one_image(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one)
        await one.snapshot()
        await one.keeper.make_image()
        loop, changed = asyncio.get_running_loop(), list[bool]()

        async def others() -> None:
            for n in range(3):
                await one.publish(await one.model(), n)
                await only_the_end_is_needed(one)

        def once(operation: str) -> None:
            if operation == "get" and not changed:
                changed.append(True)
                store.before = lambda operation: None
                asyncio.run_coroutine_threadsafe(others(), loop).result(timeout=60)

        store.before = once
        prepared = await asyncio.to_thread(prepare, store, 3, tmp_path / "two")
        prepared.close()

        assert changed
        assert prepared.image == one.keeper.image


async def test_the_store_is_trimmed_as_the_local_journal_is_and_claims_stay(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one)
        for _ in range(3):
            await some_ticks(one)
            await only_the_end_is_needed(one)
        older = one.keeper._kept[0].manifest.begin

        assert store.extents(3, 0)[0] == one.opened.facts.claims[0].extent
        assert store.extents(3, 0)[1].offset == older
        assert one.server.journal.first_position >= older
        await one.keeper.scrub()


async def test_while_nothing_is_to_be_trimmed_no_entry_is_listed(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        for _ in range(4):
            await some_ticks(one)
            await one.keeper.make_image()
        store.down = lambda operation: operation in ("extents", "trim")

        await one.keeper.make_image()


async def test_without_the_store_no_image_is_made_and_the_next_try_makes_one(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one)
        store.down = lambda operation: operation in ("put", "list")
        with pytest.raises(Unreachable):
            await one.keeper.make_image()
        assert one.keeper.image is None

        store.down = lambda operation: False
        await one.keeper.make_image()
        assert one.keeper.image == images.newest(store, 3)


async def test_it_runs_until_the_store_has_lost_something(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one)
        keeper = Keeper(one.opened, one.server.journal, one.versions, image_s=0.001)
        running = asyncio.create_task(keeper.run())
        async with asyncio.timeout(60):
            while keeper.image is None:
                await some_ticks(one, 1)
            store.loses = lambda offset: True
            with contextlib.suppress(JournalFailed):  # where the keeper's own entry was lost, and missed, before these
                await some_ticks(one, 1)
            with pytest.raises(StoreLost, match="shard 3: the store acknowledged an entry"):
                await running


async def test_a_node_that_fetched_the_shard_long_before_its_claim_makes_images_that_can_be_opened(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one)
        await one.snapshot()
        await one.keeper.make_image()
        early = prepare(store, 3, tmp_path / "two")
        for _ in range(3):  # the blocks of the first image become garbage
            await some_ticks(one, 40)
            await one.snapshot()
            await one.keeper.make_image()
    two = ShardWorld(await asyncio.to_thread(early.claim, OTHER))
    writer = asyncio.create_task(two.server.journal.run())
    await two.keeper.make_image()
    await two.server.stop([writer])

    prepare(store, 3, tmp_path / "three").close()
