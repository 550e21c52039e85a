"""Nodes over the engines that are installed, for the benchmark of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.cluster.nodes.placing import shard_of
from service.cluster.shards.owner import owner_of
from service.cluster.store.opening import open_store, prepare
from service.common.names import ModelKey
from service.programs.backtest.child import ServerChild, free_port
from tests.engines import postgres
from tests.journeys.scraped import Scraped, get, scrape

READY_S = 120.0
FOLDER, OBJECTS, POSTGRES = "folder", "SeaweedFS", "PostgreSQL"
BACKENDS = (FOLDER, OBJECTS, POSTGRES)


@dataclass(frozen=True, slots=True)
class Backend:
    """An engine that runs. named: the URL of a store in it, by a name that was not used before."""

    name: str
    named: Callable[[str], str]

    def url(self, name: str) -> str:
        """Make a store ready, and return its URL."""
        made = self.named(name)
        if self.name == POSTGRES:
            prepare(made)
        return made


@contextlib.contextmanager
def backends(folder: Path, wanted: Sequence[str]) -> Iterator[list[Backend]]:
    """Start the engines of these names; one that is not installed is left out, with a line that says so."""
    with contextlib.ExitStack() as stack:
        found = []
        for name in wanted:
            made = _MAKERS[name](folder, stack)
            if made is None:
                print(f"{name}: left out, its package is not installed", flush=True)
            else:
                found.append(Backend(name, made))
        yield found


def _folder(folder: Path, stack: contextlib.ExitStack) -> Callable[[str], str]:
    return lambda name: f"file://{folder / name}"


def _objects(folder: Path, stack: contextlib.ExitStack) -> Callable[[str], str] | None:
    with contextlib.suppress(ImportError):
        from tests.engines import seaweed

        if seaweed.WEED.exists():
            (folder / "seaweed").mkdir()
            engine = stack.enter_context(seaweed.a_seaweed(folder / "seaweed"))
            os.environ.update(engine.environment)
            return engine.url
    return None


def _postgres(folder: Path, stack: contextlib.ExitStack) -> Callable[[str], str] | None:
    return stack.enter_context(postgres.a_postgres()).url if postgres.installed() else None


_MAKERS = {FOLDER: _folder, OBJECTS: _objects, POSTGRES: _postgres}


class Nodes:
    """Nodes over one store, at addresses that stay the same when they are started again."""

    def __init__(self, folder: Path, url: str, count: int, settings: Mapping[str, object] | None = None) -> None:
        """url: of the store; "" for one single server. settings: those that are not the defaults."""
        self.url, self.folder = url, folder
        folder.mkdir(parents=True, exist_ok=True)
        of_node = {**(settings or {}), **({"store": url} if url else {})}
        self.each = [
            ServerChild(
                folder / f"node-{n}", folder / f"log-{n}", listen=f"127.0.0.1:{free_port()}",
                http=f"127.0.0.1:{free_port()}", settings=of_node,
            )
            for n in range(count)
        ]  # fmt: skip

    @property
    def addresses(self) -> list[str]:
        """Where clients call."""
        return [node.grpc for node in self.each]

    def owner(self, model: str, shards: int) -> ServerChild:
        """Return the node that has claimed a model's shard last."""
        return self.owners([model], shards)[model]

    def owners(self, models: Sequence[str], shards: int) -> dict[str, ServerChild]:
        """Return the node that has claimed each model's shard last."""
        store, found = open_store(self.url), {}
        try:
            for model in models:
                owner = owner_of(store, shard_of(ModelKey("default", model), shards))
                found[model] = next(node for node in self.each if owner and node.grpc == owner.address)
        finally:
            store.close()
        return found

    def log(self, node: ServerChild) -> str:
        """Return what a node has written to its log."""
        return (self.folder / f"log-{self.each.index(node)}").read_text()


@contextlib.asynccontextmanager
async def nodes(
    url: str,
    count: int = 1,
    settings: Mapping[str, object] | None = None,
    *,
    started: bool = True,
    sharing: bool = True,
) -> AsyncIterator[Nodes]:
    """Nodes that are stopped in the end. started: start them; sharing: and wait until each has its share of shards."""
    with tempfile.TemporaryDirectory() as folder:
        made = Nodes(Path(folder), url, count, settings)
        try:
            if started:
                for node in made.each:
                    await node.start()
            if started and sharing and url:
                await _until_shared_out(made.each)
            yield made
        finally:
            for node in made.each:
                if node.running:
                    node.kill()
                    await node.wait()


async def _until_shared_out(each: Sequence[ServerChild]) -> None:
    """Wait until all shards are owned, by every node some, and nothing has changed for a moment."""
    before, since = list[float](), time.monotonic()
    async with asyncio.timeout(READY_S):
        while not (before and all(before) and time.monotonic() - since > 1.5):
            scrapes = [await scrape(node.http) for node in each]
            owned = [found.total("freshet_shards_owned") for found in scrapes]
            if owned != before or sum(owned) != scrapes[0].total("freshet_cluster_shards"):
                before, since = owned, time.monotonic()
            await asyncio.sleep(0.1)


async def timed_start(node: ServerChild) -> float:
    """Start a node; return the seconds from exec until it has claimed what it should own."""
    began = time.perf_counter()
    await node.start(READY_S)
    async with asyncio.timeout(READY_S):
        while not await asyncio.to_thread(_is_ready, node.http):
            await asyncio.sleep(0.02)
    return time.perf_counter() - began


def _is_ready(http: str) -> bool:
    try:
        return get(f"http://{http}/readyz")[0] == 200
    except OSError:  # a busy node closes a connection that it has not read in time
        return False


def store_calls(found: Scraped) -> Counter[str]:
    """Return how often a node has called its store, by operation."""
    calls = Counter[str]()
    for family in found.families.values():
        for sample in family.samples:
            if sample.name == "freshet_store_seconds_count":
                calls[sample.labels["operation"]] += int(sample.value)
    return calls
