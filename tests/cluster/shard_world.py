"""Serving and trainer of one shard in one process, over a store; stepped by hand as `tests.service.one_process`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest import mock

from service.cluster.shards.keeper import Keeper
from service.cluster.shards.opening import OpenedShard, open_shard
from service.cluster.shards.versions import SharedVersions
from service.cluster.store.seam import Store
from service.server.shard.stores import Stores
from service.serving.erasure import Erasure
from tests.service.one_process import World

NODE = "127.0.0.1:50051"
IMAGE_S = 1e9


class ShardWorld(World):
    """A server of one shard. opened: as it was claimed; keeper: runs when a test calls it."""

    def __init__(self, opened: OpenedShard, **settings: Any) -> None:
        self.opened = opened
        journal = opened.journal(0.0)
        self.versions = SharedVersions(opened.folder / "versions.db", opened)
        self.keeper = Keeper(opened, journal, self.versions, IMAGE_S)

        def stores(data: Path, segment_bytes: int, commit_s: float) -> Stores:
            return Stores(data, segment_bytes, commit_s, journal, self.versions)

        erasure = functools.partial(Erasure, elsewhere=self.keeper)
        with (
            mock.patch("service.server.components.Stores", stores),
            mock.patch("service.server.components.Erasure", erasure),
        ):
            super().__init__(opened.folder, **settings)
        self.versions.attach(journal, asyncio.get_running_loop())


@contextlib.asynccontextmanager
async def shard(
    store: Store, folder: Path, node: str = NODE, number: int = 3, over: int | None = None, **settings: Any
) -> AsyncIterator[ShardWorld]:
    """Claim a shard and serve it; closed without a last image."""
    opened = await asyncio.to_thread(open_shard, store, number, folder, node, over, 1 << 16)
    made = ShardWorld(opened, **settings)
    writer = asyncio.create_task(made.server.journal.run())
    try:
        yield made
    finally:
        made.stop_trainer()
        await made.server.stop([writer])
