"""Serving and trainer of one shard in one process, over a store; stepped by hand as `tests.service.one_process`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from service.cluster.shards.keeper import Keeper
from service.cluster.shards.opening import OpenedShard, open_shard
from service.cluster.shards.versions import SharedVersions
from service.cluster.store.seam import Store
from service.server.components import Components
from service.server.config import ServeConfig
from service.server.shard.stores import Stores
from service.server.shared import Shared
from tests.service.one_process import World, running

NODE = "127.0.0.1:50051"
IMAGE_S = 1e9


class ShardWorld(World):
    """A server of one shard. opened: as it was claimed; keeper: runs when a test calls it."""

    def __init__(self, opened: OpenedShard, **settings: Any) -> None:
        self.opened = opened
        super().__init__(opened.folder, **settings)
        self.versions.attach(self.server.journal, asyncio.get_running_loop())

    def made(self, config: ServeConfig) -> Components:
        """Return the components of the shard."""
        opened, journal = self.opened, self.opened.journal(0.0)
        self.versions = SharedVersions(opened.folder / "versions.db", opened)
        self.keeper = Keeper(opened, journal, self.versions, IMAGE_S)
        stores = Stores(opened.folder, config.segment_bytes, config.commit_s, journal, self.versions)
        shared = Shared(config, clock=lambda: self.clock(), wall=lambda: self.wall())
        return Components(shared, opened.folder, stores, None, self.keeper)


@contextlib.asynccontextmanager
async def shard(
    store: Store, folder: Path, node: str = NODE, number: int = 3, over: int | None = None, **settings: Any
) -> AsyncIterator[ShardWorld]:
    """Claim a shard and serve it; closed without a last image."""
    opened = await asyncio.to_thread(open_shard, store, number, folder, node, over, 1 << 16)
    async with running(ShardWorld(opened, **settings)) as made:
        yield made
