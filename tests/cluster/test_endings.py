"""Whenever an owner dies, the next one has everything that was acknowledged, and every version that serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.cluster.shards import names
from service.cluster.shards.tail import VERSION
from service.cluster.store.directory import Directory
from service.common.errors import Exhausted, Unavailable
from service.storage.disk import NoSpace
from tests.cluster.cutting import Cut, until_cut
from tests.cluster.faulty import Faulty
from tests.cluster.shard_world import ShardWorld, shard
from tests.cluster.test_claims import OTHER, only_the_end_is_needed, some_ticks
from tests.cluster.test_shards import everything, journal_in, journal_of

WRITES = ("append", "put", "delete", "trim")
REFUSALS = (Unavailable, Exhausted, NoSpace, AssertionError)  # of a server whose store does not answer
EVERY = [
    pytest.param(2, marks=(pytest.mark.long, pytest.mark.timeout(600))),
    24,
]  # of the writes, from the first one on


async def a_life(live: ShardWorld) -> None:
    model = await live.model()
    await some_ticks(live, 2)
    for n in range(3):
        await live.publish(model, n)
        await some_ticks(live, 2)
        await only_the_end_is_needed(live)
    await live.control.promote(model.key, 2)
    await live.publish(model, 7)
    await some_ticks(live, 2)


async def cut_short(store: Faulty, folder: Path, n: int, after: bool) -> tuple[bool, int]:
    """Live until write number `n`; return whether there were fewer, and the position that was acknowledged."""
    async with shard(store, folder) as one:
        cut = Cut(store, n, after, WRITES)
        lived, _ = await until_cut(a_life(one), cut, REFUSALS)
        return lived, one.server.journal.durable_position


def fresh(folder: Path) -> Faulty:
    folder.mkdir()
    return Faulty(Directory(f"file://{folder / 'store'}", folder / "store"))


@pytest.mark.parametrize("after", [False, True], ids=["before it is written", "after it is written"])
@pytest.mark.parametrize("every", EVERY)
async def test_a_node_may_die_at_any_write(tmp_path, after, every):
    n = happened = 0
    while True:
        folder = tmp_path / str(n)
        store = fresh(folder)
        lived, acknowledged = await cut_short(store, folder / "one", n, after)
        if lived:
            break
        happened += 1
        store.down, store.before = lambda operation: False, lambda operation: None
        written = journal_in(folder / "one")
        async with shard(store, folder / "two", OTHER) as two:
            assert two.opened.log.end >= acknowledged
            begin = two.opened.log.start
            offset = acknowledged - len(written)
            common = journal_of(store, begin)[: acknowledged - begin]
            assert written[max(0, begin - offset) :].endswith(common[max(0, offset - begin) :])
            seen = two.opened.image.manifest.seen if two.opened.image else 0
            for _, record in two.opened.facts.versions_after(seen):
                assert record.what != VERSION or store.get(names.blobs(3) + record.blob)
            expected = await everything(two)
        async with shard(store, folder / "one") as one:
            assert await everything(one) == expected
        n += every

    assert happened > 40 / every
