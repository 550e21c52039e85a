"""A shard in service at one node, in this process: how it is released."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from service.cluster.hosting.held import Held
from service.cluster.hosting.peers import Peers
from service.cluster.hosting.shards import Shards
from service.cluster.shards.opening import open_shard
from service.cluster.shards.tail import OWED, fact
from service.cluster.slices.counts import Counts
from service.cluster.store.seam import Conflict, Store, StoreLost
from service.datadir.backup import BackupRefused
from service.edge.guard.health import Health
from service.journal.records import SHARD
from service.journal.writer import JournalFailed
from service.observe.cluster_metrics import ClusterMetrics
from service.observe.declaring import Declare
from service.observe.rendering import Registry
from service.server.config import ServeConfig
from service.server.shared import Shared
from service.storage.disk import NoSpace, Unreachable
from tests.cluster.shard_world import NODE

NO_IMAGE = [BackupRefused, Conflict, JournalFailed, NoSpace, OSError, StoreLost, sqlite3.OperationalError, Unreachable]


async def a_held_shard(store: Store, folder: Path) -> Held:
    async def ended(held: Held, cause: BaseException | None) -> None:
        raise AssertionError(f"a component of {held} ended: {cause}")

    opened = open_shard(store, 3, folder / "shard-003", NODE)
    held = Held(Shared(ServeConfig(data=folder)), opened, NODE, Counts(store, "", 16))
    held.start(ended)
    return held


async def release(held: Held, drain_s: float = 5.0) -> list[str]:
    """Release a shard with an image; return what was called meanwhile, in order."""
    called = []
    save, image = held.components.upkeep.save, held.keeper.make_image

    async def saving() -> None:
        called.append("save")
        await save()

    async def imaging() -> None:
        called.append("image")
        await image()

    async def leaving() -> None:
        called.append("leave")

    held.components.upkeep.save, held.keeper.make_image = saving, imaging  # type: ignore[method-assign,assignment]
    await held.release("127.0.0.1:50052", drain_s, image=True, leaving=leaving)
    return called


async def test_the_last_image_of_a_shard_has_its_streams_and_is_made_while_it_serves(store, tmp_path):
    held = await a_held_shard(store, tmp_path / "one")
    assert await release(held) == ["image", "save", "leave"]
    assert held.keeper.image is not None


@pytest.mark.parametrize("error", NO_IMAGE)
async def test_a_shard_of_which_no_image_can_be_made_is_released_all_the_same(store, tmp_path, error):
    held = await a_held_shard(store, tmp_path / "one")

    async def failing() -> None:
        raise error("as if")

    held.keeper.make_image = failing  # type: ignore[method-assign,assignment]
    assert await release(held) == ["image", "leave"]
    assert open_shard(store, 3, tmp_path / "two", "127.0.0.1:50052").epoch == 2


async def test_a_node_leaves_also_while_it_finds_that_it_need_not_be_ready_for_a_shard(store, tmp_path):
    shared = Shared(ServeConfig(data=tmp_path / "one"))
    peers, metrics = Peers(shared.config), ClusterMetrics(Declare(Registry()))
    shards = Shards(shared, store, peers, Health(), metrics, NODE, 2)
    for shard in range(2):
        await shards.prepare(shard)
    loop = asyncio.get_running_loop()

    async def forget() -> None:
        shards.forget_all_but(())

    for prepared in shards._prepared.values():
        prepared.close = _after(prepared.close, lambda: asyncio.run_coroutine_threadsafe(forget(), loop).result())  # type: ignore[method-assign]

    await shards.leave(lambda shard: "")

    assert shards.warm == ()
    await shards.prepare(0)
    assert shards.warm == (), "a node that leaves prepares nothing"


def _after(close: Callable[[], None], act: Callable[[], None]) -> Callable[[], None]:
    """Close in a thread, and let the loop act before that ends; in the loop itself only close."""

    def both() -> None:
        close()
        if threading.current_thread() is not threading.main_thread():
            act()

    return both


async def test_a_shard_is_released_also_while_the_store_is_silent(store, tmp_path):
    held = await a_held_shard(store, tmp_path / "one")
    await held.components.journal.flush()
    store.down = lambda operation: True
    held.components.journal.append(SHARD, fact(OWED, []))

    assert await release(held, drain_s=0.05) == ["image", "leave"]
