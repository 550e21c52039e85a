"""Nodes of a cluster over a store in a folder."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import freshet
from service.cluster.nodes.placing import preferred, shard_of
from service.common.names import ModelKey
from service.programs.backtest.child import ServerChild
from tests.journeys.conftest import QUICK
from tests.journeys.raw import DEADLINE_S
from tests.ports import free_port

SHARDS = 4
NODE = QUICK | {"shards": SHARDS, "heartbeat_s": 0.2, "image_s": 2.0}


def url_of(folder: Path) -> str:
    """The store of the cluster in a folder."""
    return f"file://{folder / 'store'}"


@contextlib.asynccontextmanager
async def cluster(
    folder: Path, nodes: int = 2, settings: Mapping[str, object] | None = None
) -> AsyncIterator[list[ServerChild]]:
    """Nodes that share all shards, each has some and stays where it is; drained at the end, those that still run."""
    children = [
        ServerChild(
            folder / f"node-{n}", folder / f"log-{n}", listen=address,
            settings={**NODE, **(settings or {}), "store": url_of(folder)},
        )
        for n, address in enumerate(addresses(nodes))
    ]  # fmt: skip
    try:
        await asyncio.gather(*(child.start() for child in children))
        await until(children[0].grpc, lambda found: shared_out(found, nodes))
        yield children
    finally:
        await asyncio.gather(*(child.stop() for child in children if child.running))


def addresses(nodes: int, shards: int = SHARDS) -> list[str]:
    """Free addresses of nodes each of which should own a shard, if there are enough: hashing gives one of two nodes
    nothing of four shards in 1 of 8, and of two shards in 1 of 2."""
    while True:
        drawn = [f"127.0.0.1:{free_port()}" for _ in range(nodes)]
        if len({preferred(shard, drawn) for shard in range(shards)}) == min(nodes, shards):
            return drawn


def shared_out(found: freshet.Cluster, nodes: int) -> bool:
    """Whether every node is seen, and every shard is where it should be."""
    seen = [node.address for node in found.nodes]
    here = (shard.models is not None and shard.node == preferred(shard.shard, seen) for shard in found.shards)
    return len(seen) == nodes and all(here)


async def until(address: str, wanted: Callable[[freshet.Cluster], bool]) -> freshet.Cluster:
    """Ask a node until the cluster is as wanted."""
    async with asyncio.timeout(DEADLINE_S), freshet.connect(address) as client:
        while not wanted(found := await client.cluster()):
            await asyncio.sleep(0.05)
        return found


def name_on(shard: int, prefix: str = "m", tenant: str = "default") -> str:
    """A name of a model that a shard has."""
    names = (f"{prefix}{n}" for n in range(10_000))
    return next(name for name in names if shard_of(ModelKey(tenant, name), SHARDS) == shard)
