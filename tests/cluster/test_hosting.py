"""The shards of one node, in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.cluster.hosting.peers import Peers
from service.cluster.hosting.shards import Shards
from service.cluster.shards.owner import owner_of
from service.cluster.store.seam import Store
from service.common.errors import Unavailable
from service.edge.guard.health import Health
from service.server.config import ServeConfig
from service.server.shared import Shared
from tests.cluster.shard_world import NODE


@contextlib.asynccontextmanager
async def shards_of_a_node(store: Store, folder: Path) -> AsyncIterator[Shards]:
    config = ServeConfig(data=folder, store=store.url)
    shared, peers = Shared(config, clock=lambda: 0.0), Peers(config)
    assert shared.metrics.cluster is not None
    made = Shards(shared, store, peers, Health(), shared.metrics.cluster, NODE, 16)
    try:
        yield made
    finally:
        await made.leave(lambda shard: "")
        await peers.close()


async def test_a_caller_that_leaves_while_a_shard_is_claimed_leaves_no_claim_without_an_owner(store, tmp_path):
    async with shards_of_a_node(store, tmp_path / "node") as shards:
        impatient = asyncio.create_task(shards.parts(3))
        while not list(store.list("shards/003/")):  # until the claim is under way in its thread
            await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)

        parts = await shards.parts(3)
        assert parts.whereabouts is not None
        assert parts.whereabouts.epoch == shards.owned[3] == 1
        owner = owner_of(store, 3)
        assert owner is not None
        assert owner.epoch == 1


async def test_callers_at_once_share_one_claim(store, tmp_path):
    async with shards_of_a_node(store, tmp_path / "node") as shards:
        found = await asyncio.gather(*(shards.parts(3) for _ in range(20)))
        assert {id(parts) for parts in found} == {id(found[0])}
        assert shards.owned == {3: 1}


async def test_a_shard_that_cannot_be_opened_is_refused_with_the_reason_and_the_others_are_served(store, tmp_path):
    folder = tmp_path / "node"
    (folder / "shard-003" / "journal").mkdir(parents=True)  # of a plain server
    async with shards_of_a_node(store, folder) as shards:
        with pytest.raises(Unavailable, match="cannot be opened"):
            await shards.parts(3)
        with pytest.raises(Unavailable, match=r"it cannot be opened: .*shard-003"):
            await shards.parts(3)
        assert (await shards.parts(4)).whereabouts is not None
        assert shards.owned == {4: 1}
