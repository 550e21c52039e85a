"""A shard is the same wherever it is opened: an image and the journal after it give what its owner's folder gives."""

from __future__ import annotations

import numpy as np
import pytest

from service.cluster.shards.owner import owner_of
from service.cluster.store.directory import Directory
from service.cluster.store.seam import Store
from tests.cluster.shard_world import shard
from tests.conftest import seeds
from tests.service.test_recovery import copy_of, recovered, seen, some_history

OTHER = "127.0.0.1:50052"


@pytest.fixture
def store(tmp_path) -> Store:
    return Directory(f"file://{tmp_path / 'store'}", tmp_path / "store")


async def test_a_new_shard_is_claimed_serves_and_is_opened_by_the_next_node(store, tmp_path):
    assert owner_of(store, 3) is None
    async with shard(store, tmp_path / "one") as one:
        model = await one.model()
        session = one.open(model, "pump")
        await one.ticks(model, [(session, 1.0), (session, 2.0)])
        await one.server.journal.flush()
        before = seen(one)

    async with shard(store, tmp_path / "two", OTHER) as two:
        after = seen(two)
        found = owner_of(store, 3)

    assert after == before
    assert found is not None
    assert (found.address, found.epoch) == (OTHER, 2)


@seeds(2)
async def test_an_image_and_the_journal_after_it_give_what_the_owners_folder_gives(store, tmp_path, seed):
    rng = np.random.default_rng(seed)
    async with shard(store, tmp_path / "one") as one:
        await some_history(one, rng, 40, snapshots=True)
        await one.learn()
        one.trainer.save()
        await one.snapshot()
        await one.keeper.make_image()
        await some_history(one, rng, 40, snapshots=True)
        await one.server.journal.flush()
        expected = await recovered(copy_of(one, tmp_path / "copy"))

    async with shard(store, tmp_path / "two", OTHER) as two:
        for model in two.serving.catalog.models.values():
            ids = [row.id for row in two.server.states.page(model.number, "", 10_000)]
            await two.serving.residency.bring(model, ids)
        assert seen(two) == expected
