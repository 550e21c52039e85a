"""An engine that confirms writes and drops some of them: noticed, named, and served by no node with a hole."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import freshet
from tests.cluster.several import Several, several, shard
from tests.journeys import crash
from tests.journeys.crash import SMALL, walk
from tests.journeys.scraped import Scraped, scrape
from tests.torture.cluster_engines import SETTINGS, objects_engine
from tests.torture.load import FLOW
from tests.torture.report import Part

EVERY = 50  # entries of journals, of which one is dropped. It is found as one in 1,000 would be, only sooner
GIVE_UP_S = 3.0
REFUSED = "cannot be opened"
NAMED = ("the store acknowledged an entry", "in the store's entries", "does not continue", "has lost entries")


async def one_in_many_is_refused(folder: Path) -> Part:
    """Drop confirmed entries under load until the owner notices; then ask every node for the shard."""
    part = Part(rounds=1)
    with objects_engine(folder) as engine:
        async with several(folder, urls=engine.urls, settings=SETTINGS, url=engine.url) as cluster:
            async with freshet.connect(cluster.addresses) as client:
                await client.create_model(FLOW, **SMALL)
                sending = asyncio.create_task(_until_refused(client))
                for proxy in engine.proxies:
                    proxy.swallow(EVERY)
                told = await asyncio.wait_for(sending, 4 * crash.DEADLINE_S)
            for proxy in engine.proxies:
                proxy.swallow(0)  # what was dropped stays lost
            part.numbers["dropped"] = dropped = sum(proxy.swallowed for proxy in engine.proxies)
            part.wrong += await _wrong(cluster)
    part.hits = int(dropped > 0)
    part.hits_of["store.loses one in many"] += part.hits
    part.summary = f"{dropped} confirmed entries dropped, one in {EVERY}; the client was told: {told}"
    return part


async def _until_refused(client: freshet.Client) -> str:
    """Send ticks until no node can open the shard; return the error.

    On a busy machine the client may give up before, for example while a node is claiming the shard; it tries again.
    """
    sent = 0
    while sent < 50_000:
        try:
            async with client.stream(FLOW, "pump", 16, give_up_s=GIVE_UP_S) as stream:
                for row in walk(50_000, 0):
                    await stream.step(row)
                    sent += 1
        except freshet.StateLost:
            continue  # the newest entries were dropped when the owner changed: the client is the first to notice
        except freshet.Unavailable as error:
            if REFUSED in str(error):
                return str(error)
    raise AssertionError("no node has noticed that the store loses entries")


async def _wrong(cluster: Several) -> list[str]:
    """Ask each node for the shard; return what is not as promised."""
    wrong: list[str] = []
    for node in cluster.nodes:
        async with freshet.connect(node.grpc) as client:
            with contextlib.suppress(freshet.Unavailable):
                await client.get_model(FLOW)
                wrong.append(f"{node.grpc} serves a journal with a hole")
    seen = [await scrape(node.http) for node in cluster.nodes]
    if owners := sum(map(_has, seen)):
        wrong.append(f"{owners} nodes say that they own the shard")
    if not any(one.total("freshet_shard_failed_total") for one in seen):
        wrong.append("no node counts a failed shard")
    words = "".join(path.read_text() for path in cluster.logs)
    if not any(f"shard {shard(FLOW)}: " in line and any(name in line for name in NAMED) for line in words.splitlines()):
        wrong.append("no log names the shard and what it lost")
    return wrong


def _has(seen: Scraped) -> bool:
    return seen.total("freshet_shard_epoch", shard=f"{shard(FLOW):03d}") > 0
