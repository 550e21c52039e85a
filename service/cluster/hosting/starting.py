"""Start a node: check its settings, probe the store, agree on the number of shards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from service.cluster.hosting.node import Node
from service.cluster.nodes.agreed import shards_of
from service.cluster.store.opening import open_store
from service.cluster.store.probe import probe
from service.server.config import ServeConfig
from service.server.ports import Addresses, check_free
from service.server.shard import memory
from service.server.shared import Shared
from service.storage.directory import prepare


async def serve(config: ServeConfig, announce: Callable[[Addresses], None]) -> int:
    """Run a node until a signal stops it. Returns the exit code. `announce` is called once, when calls are accepted.

    Raises StoreRefused for a store that cannot be used or does not keep its promises, StoreUnavailable, OSError.
    """
    memory.map_large_blocks()
    for name in ("listen", "http"):
        check_free(name, getattr(config, name))
    prepare(config.data)
    shared = Shared(config)
    opened = open_store(config.store)
    try:
        await asyncio.to_thread(probe, opened)
        shards = await asyncio.to_thread(shards_of, opened, config.shards)
    except BaseException:
        opened.close()
        raise
    node = Node(shared, opened, shards)
    memory.freeze()
    return await node.run(announce)
