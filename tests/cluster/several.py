"""Several real nodes over one store, and what the store's journals say."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from service.cluster.nodes.placing import shard_of
from service.cluster.shards.opening import list_entries
from service.cluster.shards.owner import Owner, owner_of
from service.cluster.shards.tail import frames_of
from service.cluster.store.opening import open_store
from service.cluster.store.patience import repeat
from service.cluster.store.seam import Store
from service.common.names import ModelKey
from service.journal.records import SHARD, Chunk, Claim, ModelCreate, StreamOpened, Ticks, decode_chunk
from service.programs.backtest.child import ServerChild
from tests.journeys import clusters
from tests.journeys.crash import BUSY, DEADLINE_S, Ledger
from tests.ports import free_port

T = TypeVar("T")

SHARDS = 2
QUICK: dict[str, object] = {"shards": SHARDS, "heartbeat_s": 0.2, "image_s": 1e6}


class Several:
    """Nodes at addresses that stay the same when they are started again, and the store's journals."""

    def __init__(self, folder: Path, urls: list[str], settings: Mapping[str, object], url: str = "") -> None:
        """urls: of the store, by node; url: the test's own way to it, by default that of the first node."""
        self._folder = folder
        self.url = url or urls[0]
        wanted = {**BUSY, **QUICK, **settings}
        listen = clusters.addresses(len(urls), int(str(wanted["shards"])))
        self.nodes = [
            ServerChild(
                folder / f"node-{n}", folder / f"log-{n}", listen=address, http=f"127.0.0.1:{free_port()}",
                settings={**wanted, "store": url},
            )
            for n, (url, address) in enumerate(zip(urls, listen, strict=True))
        ]  # fmt: skip

    @property
    def logs(self) -> list[Path]:
        """The logs of the nodes."""
        return [self._folder / f"log-{n}" for n in range(len(self.nodes))]

    @property
    def addresses(self) -> list[str]:
        """The addresses of the nodes that have been started."""
        return [node.grpc for node in self.nodes if node.grpc]

    async def settle(self) -> None:
        """Wait until each shard is where it stays: the first node has claimed all, before the others came."""
        await clusters.until(self.nodes[0].grpc, lambda found: clusters.shared_out(found, len(self.nodes)))

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
        found = self._asked(lambda store: owner_of(store, shard(model)))
        assert found is not None
        return found

    def folder_of(self, model: str) -> Path:
        """Return the local folder of a model's shard at its owner."""
        return self.node_at(self.owner(model).address).data / f"shard-{shard(model):03d}"

    def checkpoints(self, model: str) -> list[Path]:
        """Return the files of the trainers that have learned a model, on all nodes."""
        return [path for node in self.nodes for path in node.data.glob(f"shard-{shard(model):03d}/trainer.db")]

    def chunks(self, model: str, number: int = 1) -> list[Chunk]:
        """Return the journal of a model from its start, as the store has it; the model becomes `number`."""
        found = [chunk for chunk in self._journal(model) if chunk.model != SHARD]
        own = number_of(model, found)
        return [replace(chunk, model=number) for chunk in found if chunk.model == own]

    def number(self, model: str) -> int:
        """Return the number of a model in its shard."""
        return number_of(model, self._journal(model))

    def taken_again(self, model: str, most: int) -> dict[str, set[int]]:
        """Return, by stream, the ticks that follow a claim: up to `most` from the first one after it.

        A former owner may have answered them without having made them durable; they were sent again then.
        """
        chunks = self._journal(model)
        own, names, last = number_of(model, chunks), dict[int, str](), dict[int, int]()
        found: dict[str, set[int]] = {}
        for chunk in chunks:
            for record in chunk.records:
                if isinstance(record, Claim):
                    for stream, seq in last.items():
                        found.setdefault(names[stream], set()).update(range(seq + 1, seq + 1 + most))
                elif chunk.model == own and isinstance(record, StreamOpened):
                    names[record.stream] = record.id
                elif chunk.model == own and isinstance(record, Ticks):
                    last |= dict(zip(record.stream.tolist(), record.seq.tolist(), strict=True))
        return found

    def claims(self, model: str) -> list[tuple[int, str]]:
        """Return the epochs of a model's shard and their owners, in the order of their claims."""
        records = [record for chunk in self._journal(model) for record in chunk.records]
        return [(record.epoch, record.node) for record in records if isinstance(record, Claim)]

    def _journal(self, model: str) -> list[Chunk]:
        return self._asked(lambda store: journal(store, shard(model)))

    def _asked(self, question: Callable[[Store], T]) -> T:
        """Ask the store, again while it does not answer: it may have been killed, and the machine has other work."""

        def ask() -> T:
            with self.store() as store:
                return question(store)

        return repeat(ask, threading.Event().wait, DEADLINE_S)


def number_of(model: str, chunks: list[Chunk]) -> int:
    """Return the number of a model in its shard; 0 if the journal does not create it."""
    created = [(c.model, r) for c in chunks for r in c.records if isinstance(r, ModelCreate)]
    return next((number for number, record in created if record.name == model), 0)


def shard(model: str, shards: int = SHARDS) -> int:
    """Return the shard of a model of the default tenant."""
    return shard_of(ModelKey("default", model), shards)


def journal(store: Store, number: int) -> list[Chunk]:
    """Return the chunks of a shard's whole journal. Raises Stale for a gap, StoreLost unless its chain is whole."""
    chunks, position, chain = [], 0, 0
    extents = list_entries(store, number, 0)  # nodes append meanwhile, and a listing is not of one moment
    for extent, data in zip(extents, store.read(number, extents), strict=True):
        for frame in frames_of(number, extent, data, position, chain):
            chunks.append(decode_chunk(frame.payload))
            position, chain = frame.end, frame.chain
    return chunks


@contextlib.asynccontextmanager
async def several(
    folder: Path,
    count: int = 3,
    urls: list[str] | None = None,
    settings: Mapping[str, object] | None = None,
    url: str = "",
) -> AsyncIterator[Several]:
    """Started nodes over a store, by default a folder; those that run at the end must drain well."""
    made = Several(folder, urls or [f"file://{folder / 'store'}"] * count, settings or {}, url)
    try:
        for node in made.nodes:
            await node.start()
        yield made
        for node in made.nodes:
            if node.running:
                assert await node.stop(DEADLINE_S) == 0, node.last_words()
    finally:
        for node in made.nodes:
            if node.running:
                node.kill()
                await node.wait()


def check_answers(ledger: Ledger, expected: Mapping[tuple[str, int], Any], in_flight: int) -> None:
    """Every answer is that of an unbroken run of the version that it names, but for ticks perhaps taken twice.

    expected: the oracle's, by stream and seq; in_flight: ticks that the client had open at once.
    """
    perhaps = ledger.redone | ledger.perhaps_redone(in_flight)
    for seq, forecast in ledger.answers.items():
        oracle = expected[ledger.stream, seq]
        assert oracle.x.tobytes() == ledger.sent[seq - 1].tobytes()
        assert not forecast.lost
        same = (forecast.version, forecast.y.tobytes()) == (oracle.version, oracle.y.tobytes())
        assert same or seq in perhaps, f"{ledger.stream}, tick {seq}"
