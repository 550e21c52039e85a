"""A store that loses what it acknowledged is noticed and refused, with shard and offset; nothing is dropped."""

from __future__ import annotations

import asyncio
import re
import shutil

import pytest

from service.cluster.shards import names
from service.cluster.shards.opening import open_shard, prepare
from service.cluster.store.directory import Directory
from service.cluster.store.seam import Extent, StoreLost
from service.journal.records import Paused
from service.journal.writer import JournalFailed
from tests.cluster.faulty import Faulty
from tests.cluster.shard_world import NODE, shard
from tests.cluster.test_claims import OTHER, some_ticks


class OneIn:
    """Loses one of `n` entries."""

    def __init__(self, n: int) -> None:
        self.n, self.count = n, 0
        self.offsets: list[int] = []

    def __call__(self, offset: int) -> bool:
        self.count += 1
        if self.count % self.n:
            return False
        self.offsets.append(offset)
        return True


async def test_a_store_that_loses_one_in_a_thousand_is_noticed_and_the_shard_fails(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        store.loses = lost = OneIn(1000)
        model = await one.model()
        session = one.open(model, "pump")
        for n in range(1000):
            await one.tick(model, session, float(n))
            await one.server.journal.flush()
            if n == 500:
                await one.keeper.scrub()  # so far nothing is lost
        [offset] = lost.offsets

        with pytest.raises(StoreLost, match=f"shard 3: the store acknowledged an entry .* at offset {offset},"):
            await one.keeper.scrub()

        with pytest.raises(JournalFailed):
            one.server.journal.append(1, Paused())
        assert isinstance(getattr(one.server.journal.failure, "__cause__", None), StoreLost)


async def test_entries_that_are_appended_while_the_store_lists_are_no_loss(store, tmp_path, monkeypatch):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one)
        extents = store.inner.extents

        def not_of_one_moment(number: int, start: int) -> list[Extent]:
            found = extents(number, start)
            end = found[-1].offset + found[-1].size
            return [*found, Extent(end + 80, 80)]  # the one before it was added after its place had been passed

        monkeypatch.setattr(store.inner, "extents", not_of_one_moment)
        monkeypatch.setattr(one.keeper, "_successor", lambda: None)
        await one.keeper.scrub()

        assert one.server.journal.failure is None


async def test_the_next_owner_refuses_a_journal_with_a_hole(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        store.loses = lost = OneIn(5)
        await some_ticks(one, 10)

    with pytest.raises(StoreLost, match=f"shard 3: a gap .* should begin at {lost.offsets[0]}"):
        await asyncio.to_thread(open_shard, store, 3, tmp_path / "two", OTHER)


async def test_the_former_owner_refuses_a_store_that_lost_the_end(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one, 3)
        store.loses = lambda offset: True
        await some_ticks(one, 2)
        end = one.opened.log.end
    before = sorted(path.read_bytes() for path in (tmp_path / "one" / "journal").glob("*.journal"))

    with pytest.raises(StoreLost, match=rf"shard 3: the store has lost entries .* the copy on this node at {end} \("):
        await asyncio.to_thread(open_shard, store, 3, tmp_path / "one", NODE)

    assert sorted(path.read_bytes() for path in (tmp_path / "one" / "journal").glob("*.journal")) == before


async def test_the_former_owner_refuses_a_store_that_went_on_from_an_older_copy(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one, 3)
        shutil.copytree(tmp_path / "store", tmp_path / "older")
        await some_ticks(one, 3)
    older = Faulty(Directory(store.url, tmp_path / "older"))
    async with shard(older, tmp_path / "two", OTHER) as two:
        await some_ticks(two, 20)

    with pytest.raises(StoreLost, match="shard 3: the store has lost entries that it acknowledged"):
        await asyncio.to_thread(open_shard, older, 3, tmp_path / "one", NODE)


async def test_an_entry_with_other_bytes_breaks_the_chain(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one, 5)
    extent = store.extents(3, 0)[3]
    path = tmp_path / "store" / "journal" / "003" / f"{extent.offset:020d}"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    with pytest.raises(StoreLost, match=f"shard 3: the entry at offset {extent.offset} does not continue"):
        await asyncio.to_thread(open_shard, store, 3, tmp_path / "two", OTHER)


@pytest.mark.parametrize("kind", ["gone", "changed"])
async def test_a_blob_that_is_gone_or_changed_is_refused(store, tmp_path, kind):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one)
        await one.snapshot()
        image = await one.keeper.make_image()
    word = image.manifest.files["states.db"].blocks[0]
    path = tmp_path / "store" / (names.blobs(3) + word)
    if kind == "gone":
        path.unlink()
    else:
        path.write_bytes(b"other")

    with pytest.raises(StoreLost, match=re.escape(word) if kind == "gone" else f"the blob {word} has other bytes"):
        await asyncio.to_thread(prepare, store, 3, tmp_path / "two")


async def test_a_version_that_is_gone_is_refused(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one)
    for listed in store.list(names.blobs(3)):
        store.delete([listed.name])

    with pytest.raises(StoreLost, match="is gone, which the entry at offset"):
        await asyncio.to_thread(prepare, store, 3, tmp_path / "two")


async def test_an_image_that_lost_a_block_is_noticed_by_its_owner(store, tmp_path):
    async with shard(store, tmp_path / "one") as one:
        await some_ticks(one)
        await one.snapshot()
        image = await one.keeper.make_image()
        store.delete([names.blobs(3) + image.manifest.files["versions.db"].blocks[0]])
        await some_ticks(one)

        with pytest.raises(StoreLost, match="which the newest images need"):
            await one.keeper.make_image()
