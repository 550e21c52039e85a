"""A shard is the same wherever it is opened: an image and the journal after it give what its owner's folder gives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sqlite3
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.cluster.shards import bundles, names
from service.cluster.shards.opening import export, open_shard, prepare
from service.cluster.shards.tail import VERSION, named
from service.cluster.shards.versions import SharedVersions
from service.cluster.store.seam import Extent, Store, StoreRefused
from service.common.errors import Unavailable
from service.journal.examine import segment_files
from service.journal.records import SHARD, Stored, decode_chunk
from service.journal.segments import HEADER
from service.storage.versions import Blobs, Version
from service.streams.served import ServedModel
from tests.cluster.shard_world import ShardWorld, shard
from tests.conftest import seeds
from tests.service.one_process import World, world
from tests.service.test_recovery import Model, copy_of, recovered, seen, some_history

OTHER = "127.0.0.1:50052"


async def everything(live: World) -> dict[int, Model]:
    """As `seen`, with every stream brought into memory."""
    for model in live.serving.catalog.models.values():
        ids = [row.id for row in live.server.states.page(model.number, "", 10_000)]
        await live.serving.residency.bring(model, ids)
    return seen(live)


def versions_in(folder: Path) -> list[Any]:
    """Every version, number and pin in a folder, with all bytes."""
    with contextlib.closing(sqlite3.connect(folder / "versions.db")) as sql:
        tables = [sql.execute(f"SELECT * FROM {name} ORDER BY 1, 2") for name in ("versions", "pins", "numbers")]
        return [rows.fetchall() for rows in tables]


def journal_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes()[HEADER.size :] for path in segment_files(folder / "journal"))


def journal_of(store: Store, start: int = 0) -> bytes:
    return b"".join(store.read(3, store.extents(3, start)))


async def a_life(live: ShardWorld, seed: int, image: bool = True) -> None:
    """A history with an image in its middle, learned in part."""
    rng = np.random.default_rng(seed)
    await some_history(live, rng, 40, snapshots=True)
    await live.learn()
    live.trainer.save()
    await live.snapshot()
    if image:
        await live.keeper.make_image()
    await some_history(live, rng, 40, snapshots=True)
    await live.server.journal.flush()


@seeds(2)
async def test_an_image_and_the_journal_after_it_give_what_the_owners_folder_gives(store, tmp_path, seed):
    async with shard(store, tmp_path / "one") as one:
        await a_life(one, seed)
        copy = copy_of(one, tmp_path / "copy")
    expected, versions, journal = await recovered(copy), versions_in(copy), journal_in(copy)

    async with shard(store, tmp_path / "two", OTHER) as two:
        begin = two.opened.log.start
        assert begin > 0
        assert await everything(two) == expected
        two_versions = versions_in(tmp_path / "two")

    kept = {row[:2] for row in two_versions[0]}
    assert two_versions[1:] == versions[1:]
    assert two_versions[0] == [row for row in versions[0] if row[:2] in kept]
    assert {model.champion for model in expected.values()} <= {number for _, number in kept}
    assert journal_in(tmp_path / "two")[: len(journal) - begin] == journal[begin:]
    assert journal_of(store, begin) == journal_in(tmp_path / "two")


async def test_the_store_has_exactly_the_bytes_of_the_local_journal(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await a_life(one, 1)

        assert journal_of(store) == journal_in(tmp_path / "one")


async def test_without_an_image_everything_is_in_the_journal(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await a_life(one, 3, image=False)
        copy = copy_of(one, tmp_path / "copy")
    for path in copy.glob("states.db*"):  # which also knows of verdicts without a record
        path.unlink()

    async with shard(store, tmp_path / "two", OTHER) as two:
        assert await everything(two) == await recovered(copy)


async def test_the_trainer_learns_on_to_the_weights_of_an_unbroken_run(store, tmp_path):
    async def weights(live: World) -> dict[int, bytes]:
        await live.learn()
        return {n: hosted.learner.weights.flat.tobytes() for n, hosted in live.trainer.models.items()}

    async with shard(store, tmp_path / "one") as one:
        await a_life(one, 5)
        unbroken = await weights(one)

    async with shard(store, tmp_path / "two", OTHER) as two:
        assert await weights(two) == unbroken
        assert unbroken


async def test_a_shards_folder_opens_as_a_plain_single_node(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await a_life(one, 4)
        expected = await everything(one)

    await asyncio.to_thread(export, store, 3, tmp_path / "plain")

    assert await recovered(tmp_path / "plain") == expected
    assert await recovered(tmp_path / "one") == expected


# ---- the local folder is a cache


async def test_what_the_cache_has_is_not_read_again(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await a_life(one, 6)
        await one.keeper.make_image()
        expected = await everything(one)
    store.read_bytes = 0
    async with shard(store, tmp_path / "two", OTHER) as two:
        assert await everything(two) == expected
    first, store.read_bytes = store.read_bytes, 0

    async with shard(store, tmp_path / "two", OTHER) as again:
        assert await everything(again) == expected

    assert store.read_bytes < first / 4


def forget(folder: Path) -> None:
    shutil.rmtree(folder)


def forget_the_journal(folder: Path) -> None:
    shutil.rmtree(folder / "journal")


def damage_a_database(folder: Path) -> None:
    with (folder / "states.db").open("r+b") as file:
        file.seek(5000)
        file.write(b"damage" * 50)


def damage_the_journal(folder: Path) -> None:
    """As a power failure leaves it: a hole, and a later commit behind it."""
    path = segment_files(folder / "journal")[0]
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(64))


def cut_the_journal(folder: Path) -> None:
    path = segment_files(folder / "journal")[-1]
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 30)


@pytest.mark.parametrize(
    "change", [forget, forget_the_journal, damage_a_database, damage_the_journal, cut_the_journal],
    ids=lambda change: change.__name__,
)  # fmt: skip
async def test_a_cache_that_is_gone_or_damaged_is_fetched(store, tmp_path, change):
    async with shard(store, tmp_path / "one") as one:
        await a_life(one, 7)
        expected = await everything(one)
    change(tmp_path / "one")

    async with shard(store, tmp_path / "one") as again:
        assert await everything(again) == expected
        assert journal_of(store, again.opened.log.start) == journal_in(tmp_path / "one")


async def test_a_cache_of_long_ago_is_brought_up_to_date(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await a_life(one, 8)
    async with shard(store, tmp_path / "two", OTHER) as two:
        await a_life(two, 9)
        await two.learn()
        two.trainer.save()
        await two.snapshot()
        await two.keeper.make_image()
        await a_life(two, 10)
        expected = await everything(two)

    async with shard(store, tmp_path / "one") as again:
        assert await everything(again) == expected
        assert again.opened.epoch == 3


async def test_a_folder_that_is_a_data_directory_of_its_own_is_refused(store, tmp_path):
    async with world(tmp_path / "plain") as live:
        await live.model()

    with pytest.raises(StoreRefused, match="is a data directory of its own"):
        await asyncio.to_thread(prepare, store, 3, tmp_path / "plain")
    assert (tmp_path / "plain" / "states.db").exists()


# ---- versions


async def test_versions_between_images_serve_at_the_next_owner_with_their_pins(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        model = await one.model()
        await one.keeper.make_image()
        for n in range(5):
            await one.publish(model, n)
        await one.control.promote(model.key, 3)
        await one.server.journal.flush()
        expected = versions_in(tmp_path / "one")

    async with shard(store, tmp_path / "two", OTHER) as two:
        [model] = two.serving.catalog.models.values()
        assert model.champion == 3
        assert two.server.versions.pinned(model.number) == {1, 3}
        assert await two.publish(model, 9) == 7
    assert [row[:2] for row in expected[0]] == [(1, n) for n in range(1, 7)]


async def test_a_number_of_a_version_that_was_pruned_is_not_given_again(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        model = await one.model()
        await one.publish(model, 1)
        await one.publish(model, 2)
        one.server.versions.prune(model.number, {1, 3})
        await one.learn()
        one.trainer.save()
        await one.snapshot()
        await one.keeper.make_image()
        await one.keeper.make_image()

    async with shard(store, tmp_path / "two", OTHER) as two:
        [model] = two.serving.catalog.models.values()
        assert {version.number for version in two.server.versions.list(model.number)} == {1, 3}
        assert await two.publish(model, 5) == 4


def named_versions(store: Store) -> dict[str, int]:
    """Blobs of versions that the journal names, and the offset of the entry that does."""
    found = {}
    for extent, data in zip(store.extents(3, 0), store.read(3, store.extents(3, 0)), strict=True):
        for record in _records(extent, data):
            if isinstance(record, Stored) and record.what == VERSION:
                found[record.blob] = extent.offset
    return found


def stored(store: Store) -> set[str]:
    return {listed.name.removeprefix(names.blobs(3)) for listed in store.list(names.blobs(3))}


def _records(extent: Extent, data: bytes) -> list[Any]:
    at, found = BytesIO(data), list[Any]()
    while head := at.read(8):
        size = int.from_bytes(head[:4], "little") & (2**31 - 1)
        chunk = decode_chunk(at.read(size))
        found += chunk.records if chunk.model == SHARD else ()
    return found


class NamedFirst(SharedVersions):
    """A mutant: the journal names a version before it is stored."""

    def add(
        self,
        version: Version,
        onnx: bytes,
        weights: bytes,
        canary: bytes,
        *,
        pinned: bool = False,
        returning: bool = False,
    ) -> int:
        blob = names.blob_word(self._epoch, bundles.pack(version, Blobs(onnx, weights, canary), pinned))
        self._record(named(VERSION, blob, {}), durable=True)
        return super().add(version, onnx, weights, canary, pinned=pinned, returning=returning)


@pytest.mark.parametrize("is_mutant", [False, True], ids=["stored first", "named first"])
async def test_a_version_is_stored_before_the_journal_names_it_and_named_before_it_serves(
    store, tmp_path, monkeypatch, is_mutant
):
    if is_mutant:
        monkeypatch.setattr("tests.cluster.shard_world.SharedVersions", NamedFirst)
    async with shard(store, tmp_path / "one") as one:
        model = await one.model()
        store.down = lambda operation: operation == "put"
        serving = model.champion

        assert await one.publish(model, 1) == serving
        await one.server.journal.flush()
        if is_mutant:
            assert not named_versions(store).keys() <= stored(store)
            return
        assert len(named_versions(store)) == 1
        assert named_versions(store).keys() <= stored(store)

        store.down = lambda operation: False
        assert await one.publish(model, 1) == serving + 1
        await one.server.journal.flush()
        order = [what for operation, what in store.calls if operation in ("put", "append")]
        for word, offset in named_versions(store).items():
            assert order.index(names.blobs(3) + word) < order.index(offset)


async def test_a_version_waits_for_a_store_that_takes_no_entries(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        model = await one.model()
        store.down = lambda operation: operation == "append"
        await one.tick(model, one.open(model, "pump"), 1.0)
        await one.server.journal.flush(unless_full=True)

        with pytest.raises(Unavailable, match="store = unreachable"):
            await one.model("another")
        number = model.champion
        await one.publish(model, 1)

        assert model.champion == number
        store.down = lambda operation: False
        async with asyncio.timeout(60):
            await one.server.journal.flush()
        assert await one.publish(model, 1) > number


# ---- erasing


def stored_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_after_erasing_nothing_in_the_store_holds_the_values(store, tmp_path):
    secret = np.float32(1234.5678).tobytes()
    async with shard(store, tmp_path / "one") as one:
        model = await one.model()
        gone, kept = one.open(model, "gone"), one.open(model, "kept")
        await one.ticks(model, [(gone, 1234.5678), (kept, 1.0)])
        await one.learn()
        one.trainer.save()
        await one.snapshot()
        await one.keeper.make_image()
        await one.keeper.make_image()
        assert secret in stored_bytes(tmp_path / "store")

        await erase_stream(one, model, "gone")

        assert secret not in stored_bytes(tmp_path / "store")
        assert len(store.list(names.images(3))) == 1
        await one.keeper.scrub()
        expected = seen(one)

    async with shard(store, tmp_path / "two", OTHER) as two:
        assert await everything(two) == expected
        assert [row.id for row in two.server.states.page(1, "", 10)] == ["kept"]


async def test_a_node_that_has_followed_a_shard_keeps_nothing_that_was_erased(store, tmp_path):
    secret = np.float32(1234.5678).tobytes()
    async with shard(store, tmp_path / "one") as one:
        model = await one.model()
        await one.tick(model, one.open(model, "gone"), 1234.5678)
        await one.tick(model, one.open(model, "kept"), 1.0)
        await one.learn()
        one.trainer.save()
        standby = await asyncio.to_thread(prepare, store, 3, tmp_path / "two")
        followed = threading.Lock()

        def follow(operation: str) -> None:
            if operation == "put" and followed.acquire(blocking=False):  # the image that erases is being made
                standby.catch_up()

        store.before = follow
        await erase_stream(one, model, "gone")
        store.before = lambda operation: None
        image, expected = one.keeper.image, await everything(one)
    standby.close()
    assert image is not None
    assert standby.log.end >= image.manifest.begin
    assert secret in stored_bytes(tmp_path / "two")

    async with shard(store, tmp_path / "two", OTHER) as two:
        assert await everything(two) == expected
    assert secret not in stored_bytes(tmp_path / "two")


async def erase_stream(live: ShardWorld, model: ServedModel, id: str) -> None:
    """Delete a stream and run one pass of erasing, with the trainer stepped by hand."""
    server = live.server
    await server.erasure.owe(model.number)
    live.serving.opening.delete(model, id)
    await server.journal.flush()
    trainer = live.trainer

    class Trainers:
        async def quarantined_streams(self, timeout_s: float) -> dict[int, tuple[int, ...]]:
            return {}

        async def erase(self, gone: object, timeout_s: float) -> int:
            await live.learn()
            trainer.save()
            trainer.checkpoints.compact()
            return trainer.position

    server.erasure._trainer = Trainers()
    await server.erasure._erase({model.number}, server.erasure._requests)


async def test_a_debt_to_erase_is_paid_by_the_next_owner(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        model = await one.model()
        await one.keeper.make_image()
        await one.server.erasure.owe(model.number)

    await asyncio.to_thread(open_and_close, store, tmp_path / "two")

    assert json.loads((tmp_path / "two" / "erase-owed.json").read_text()) == [model.number]


def open_and_close(store: Store, folder: Path) -> None:
    open_shard(store, 3, folder, OTHER).log.close()


async def test_a_stream_goes_on_at_one_owner_after_the_other(store, tmp_path):
    for turn in range(4):
        async with shard(store, tmp_path / f"n{turn % 2}", f"127.0.0.1:{50051 + turn}") as live:
            model = await live.model()
            session = live.open(model, "pump")
            await live.tick(model, session, float(turn))
            await live.server.journal.flush()
            assert (live.opened.epoch, session.last_seq) == (turn + 1, turn + 1)
            if turn == 1:
                await live.keeper.make_image()
