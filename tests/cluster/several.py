"""Several real nodes over one store, and what the store's journals say."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

from service.cluster.nodes.placing import shard_of
from service.cluster.shards.owner import Owner, owner_of
from service.cluster.shards.tail import frames_of
from service.cluster.store.opening import open_store
from service.cluster.store.seam import Store
from service.common.names import ModelKey
from service.journal.records import SHARD, Chunk, decode_chunk
from service.programs.backtest.child import ServerChild, free_port
from tests.journeys.crash import BUSY

SHARDS = 2
QUICK: dict[str, object] = {"shards": SHARDS, "heartbeat_s": 0.2, "image_s": 1e6}


class Several:
    """Nodes at addresses that stay the same when they are started again, and the store's journals."""

    def __init__(self, folder: Path, urls: list[str], settings: dict[str, object]) -> None:
        """urls: of the store, by node; the first is also the test's own way to it."""
        self._folder = folder
        self.url = urls[0]
        self.nodes = [
            ServerChild(
                folder / f"node-{n}", folder / f"log-{n}", listen=f"127.0.0.1:{free_port()}",
                http=f"127.0.0.1:{free_port()}", settings=BUSY | QUICK | settings | {"store": url},
            )
            for n, url in enumerate(urls)
        ]  # fmt: skip

    @property
    def addresses(self) -> list[str]:
        """The addresses of the nodes that have been started."""
        return [node.grpc for node in self.nodes if node.grpc]

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        """Open the store."""
        opened = open_store(self.url)
        try:
            yield opened
        finally:
            opened.close()

    def node_at(self, address: str) -> ServerChild:
        """Return the node with this address."""
        return next(node for node in self.nodes if node.grpc == address)

    def owner(self, model: str) -> Owner:
        """Return the owner of a model's shard, as the store says."""
        with self.store() as store:
            found = owner_of(store, shard(model))
        assert found is not None
        return found

    def folder_of(self, model: str) -> Path:
        """Return the local folder of a model's shard at its owner."""
        return self.node_at(self.owner(model).address).data / f"shard-{shard(model):03d}"

    def chunks(self, model: str, number: int = 1) -> list[Chunk]:
        """Return the journal of a model's shard, from its start, as the store has it; the model becomes `number`."""
        with self.store() as store:
            found = list(journal(store, shard(model)))
        own = {chunk.model for chunk in found} - {SHARD}
        assert len(own) <= 1, "one model for each shard"
        return [replace(chunk, model=number) for chunk in found if chunk.model != SHARD]


def shard(model: str, shards: int = SHARDS) -> int:
    """Return the shard of a model of the default tenant."""
    return shard_of(ModelKey("default", model), shards)


def journal(store: Store, number: int) -> list[Chunk]:
    """Return the chunks of a shard's whole journal. Raises StoreLost unless its chain is whole."""
    chunks, position, chain = [], 0, 0
    extents = store.extents(number, 0)
    for extent, data in zip(extents, store.read(number, extents), strict=True):
        for frame in frames_of(number, extent, data, position, chain):
            chunks.append(decode_chunk(frame.payload))
            position, chain = frame.end, frame.chain
    return chunks


@contextlib.asynccontextmanager
async def several(
    folder: Path, url: str = "", count: int = 3, urls: list[str] | None = None, **settings: object
) -> AsyncIterator[Several]:
    """Started nodes over a store, by default a folder; those that run at the end must drain well."""
    made = Several(folder, urls or [url or f"file://{folder / 'store'}"] * count, settings)
    try:
        for node in made.nodes:
            await node.start()
        yield made
        for node in made.nodes:
            if node.running:
                assert await node.stop() == 0, node.last_words()
    finally:
        for node in made.nodes:
            if node.running:
                node.kill()
                await node.wait()
