"""Records of a shard lie in chunks of model 0, and everything that folds models passes over them."""

from __future__ import annotations

import asyncio

from service.access.tenants import Tenants
from service.datadir.refold import refold
from service.datadir.repair import check
from service.journal.records import SHARD, Claim, Record, Stored
from service.learning.feed import Feed
from service.learning.queues import Queues
from tests.service.one_process import World, world
from tests.service.test_journal_retention import NOTHING
from tests.service.test_recovery import copy_of, recovered, seen

RECORDS: list[Record] = [
    Claim(1, "127.0.0.1:50051", 0, 7),
    Stored("version", "0000000001-" + "0" * 64, bytes(32), "{}"),
    Claim(2, "127.0.0.1:50052", 0, 8),
]


async def a_shard(live: World) -> None:
    """A model that learns, with a record of the shard before, between and in the commits of its ticks."""
    journal = live.server.journal
    journal.append(SHARD, RECORDS[0])
    await journal.flush()
    model = await live.model()
    session = live.open(model, "pump")
    for n, record in enumerate(RECORDS * 4):
        await live.ticks(model, [(session, float(n))] * 8)
        journal.append(SHARD, record)
        await live.ticks(model, [(session, float(-n))] * 8)
        await journal.flush()
    await live.learn()
    await journal.flush()


async def test_a_directory_with_records_of_a_shard_opens_as_a_plain_server(tmp_path):
    async with world(tmp_path / "data", **NOTHING) as live:
        await a_shard(live)
        before, copy = seen(live), copy_of(live, tmp_path / "copy")

    assert await recovered(copy) == before


async def test_learning_such_a_journal_again_gives_the_same_weights(tmp_path):
    async with world(tmp_path / "data", **NOTHING) as live:
        await a_shard(live)
        live.trainer.save()
        copy = copy_of(live, tmp_path / "copy")

    [model] = await asyncio.to_thread(refold, copy, None)

    assert (model.number, model.missed) == (1, [])
    assert "checkpoint" in model.met


async def test_a_check_of_the_journal_lists_models_only(tmp_path):
    async with world(tmp_path / "data", **NOTHING) as live:
        await a_shard(live)
        copy = copy_of(live, tmp_path / "copy")

    report = check(copy)

    assert (list(report.held), report.problem) == ([1], "")


async def test_a_trainer_is_never_sent_them(tmp_path):
    async with world(tmp_path / "data", **NOTHING) as live:
        await a_shard(live)
        models, journal = live.serving.catalog.models, live.server.journal
        feed = Feed(
            journal,
            lambda number: models[number].tenant if number in models else None,
            live.server.tenants,
            lambda: 0.0,
        )
        assert isinstance(live.server.tenants, Tenants)
        queues: Queues = feed.queues

        assert queues.scan(journal.read(0, 1 << 20)) == {1}
        assert not queues.has(SHARD)
        assert queues.scanned == journal.durable_position
