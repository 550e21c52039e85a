"""One node of a cluster: it keeps a note in the store, serves shards, and on a signal hands them over."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from grpc_health.v1 import health_pb2

from freshet.v1 import cluster_pb2, models_pb2
from service.cluster.hosting import overview, scrape
from service.cluster.hosting.joining import joined
from service.cluster.hosting.peers import Peers, cover, is_hop
from service.cluster.hosting.shards import Shards
from service.cluster.nodes import placing
from service.cluster.nodes.notes import Alive, Note, note_name, read_notes
from service.cluster.nodes.ownership import Plan, heir, plan
from service.cluster.slices.names import shard_of_slice
from service.cluster.store.patience import Metered
from service.cluster.store.seam import Store, StoreRefused, StoreUnavailable
from service.common.errors import Moved, ServiceError, Unavailable
from service.common.names import ModelKey
from service.common.slices import slice_of
from service.common.tasks import end
from service.edge.guard.health import Health
from service.edge.parts import EventMessages, Parts
from service.server import process
from service.server.doors import grpc_door, http_door, inferring_door
from service.server.grpc_server import SERVICES
from service.server.ports import Addresses, at_port
from service.server.server import exit_code
from service.server.shared import Shared
from service.server.watching import FILES_PERIOD_S

log = structlog.get_logger("cluster")

LIST_TRIES = 4
STATUS = health_pb2.HealthCheckResponse


class Node:
    """One node: its shards, its note, its doors. It is also the `Places` of its calls."""

    def __init__(self, shared: Shared, store: Store, shards: int) -> None:
        """shards: the number of the cluster's, as the store says."""
        self.shared, self.config, self._count = shared, shared.config, shards
        assert shared.metrics.cluster is not None
        self.metrics = shared.metrics.cluster
        self._store = Metered(store, lambda call: self.metrics.called(*call))
        self.metrics.shards.set(shards)
        shared.metrics.process.ready.set_function(lambda: not self.obstacle())
        self.health, self.peers = Health(), Peers(shared.config)
        self._seen, self.alive = Alive(), dict[str, Note]()
        self._started, self._beat = shared.wall(), 0
        self._draining = self._settled = False
        self._moving: asyncio.Task[None] | None = None  # a hand-over, or a preparation for one

    def __repr__(self) -> str:
        return f"Node({self.address!r}, {self.obstacle() or 'ready'}, shards={sorted(self.shards.owned)})"

    # ---- places

    async def of(self, key: ModelKey, stream: str = "", part: int | None = None) -> Parts:
        """Return the parts of the shard that has the model; see `Places`. Raises Moved, Unavailable, NotFound."""
        home = placing.shard_of(key, self._count)
        count = await self.slices(key) if stream or part is not None else 0
        if not count:
            return await self.shards.parts(home)
        index = slice_of(stream, count) if part is None else part
        shard = shard_of_slice(home, index, self._count)
        parts = await self.shards.parts(shard)
        if key not in parts.catalog.by_key:
            await self.shards.held[shard].slicing.ensure(key, index)
        return parts

    async def slices(self, key: ModelKey) -> int:
        """Return the slices of a model; 0 for one without. Raises Unavailable."""
        held = self.shards.held.get(placing.shard_of(key, self._count))
        if held is None or held.leaving:
            return await self.shards.counts.of(key)
        model = held.parts.catalog.by_key.get(key)
        return model.slices.count if model else 0

    def beside(self, key: ModelKey, other: ModelKey) -> str:
        """Return "" if both names belong to one shard; else a fitting one."""
        return placing.beside(key, other, self._count)

    def here(self) -> Sequence[Parts]:
        """Return the parts of every shard of this node."""
        return [held.parts for held in self.shards.held.values() if not held.leaving]

    def http_of(self, node: str) -> str:
        """Return where a node answers HTTP: the host by which others reach it, and the port that it has noted."""
        note = self.alive.get(node)
        return f"{node.rpartition(':')[0]}:{note.http.rpartition(':')[2]}" if note else ""

    async def elsewhere(self, context: Any) -> list[models_pb2.Model]:
        """Return the models of all other nodes; none to a call that comes from one of them.

        A shard between two nodes is asked for until one has it. Raises Unavailable if none has it soon: a list without
        its models would mislead.
        """
        if is_hop(context):
            cover(context, self.shards.owned)
            return []
        addresses, missing = set(self.others()), set[int]()
        for _ in range(LIST_TRIES):
            models, covered = await self.peers.models(addresses, context)
            missing = set(range(self._count)) - covered - self.shards.owned.keys()
            if not missing:
                return models
            for shard in missing:
                try:
                    await self.shards.parts(shard)
                except Moved as error:
                    addresses = addresses | {error.address}
        raise Unavailable("shard", min(missing), "no node serves it now: try again", retry_s=1.0)

    async def nodes(self, context: Any, tenant: str) -> cluster_pb2.NodesResponse:
        """Answer Cluster.Nodes: for this node alone to a call that comes from another one. tenant: the caller's."""
        mine = overview.of_itself(self._note(), self.shards.held, tenant)
        if is_hop(context):
            return mine
        others = {address: note for address, note in self.alive.items() if address != self.address}
        answers = await self.peers.nodes(others, context)
        silent = [note for address, note in others.items() if address not in answers]
        return overview.of_all(self._count, [mine, *answers.values()], silent)

    async def past_elsewhere(self, request: models_pb2.WatchRequest, context: Any) -> list[models_pb2.ModelEvent]:
        """Return the recent events of all other nodes; none for a Watch of one model, which its owner answers."""
        if request.name or is_hop(context):
            return []
        return await self.peers.past(self.others(), request, context)

    def joined(
        self, own: EventMessages, request: models_pb2.WatchRequest, context: Any
    ) -> contextlib.AbstractAsyncContextManager[EventMessages]:
        """Join the own events with those of all other nodes, also of those that come later."""
        if request.name or is_hop(context):
            return contextlib.aclosing(own)
        return joined(own, lambda address: self.peers.watch(address, request, context), self.others)

    def others(self) -> list[str]:
        """Return the addresses of all other nodes."""
        return [address for address in self.alive if address != self.address]

    # ---- life

    async def run(self, announce: Callable[[Addresses], None]) -> int:
        """Serve until SIGTERM or SIGINT, then drain. Returns the exit code."""
        stopping, config, shared = process.stop_signal(), self.config, self.shared
        inferring = inferring_door(shared, self)
        grpc, port = grpc_door(shared, self, inferring, self.health, self.nodes)
        http = http_door(shared, self, inferring, self.text, self.obstacle)
        self.address, self._http = config.advertise or at_port(config.listen, port), at_port(config.http, http.port)
        self.shards = Shards(shared, self._store, self.peers, self.health, self.metrics, self.address, self._count)
        self.metrics.slices_waiting.set_function(
            lambda: sum(held.slicing.waiting for held in [*self.shards.held.values()])
        )
        tasks: list[asyncio.Task[Any]] = []
        try:
            await grpc.start()
            tasks = self._start(http.run(), port)
            shared.credentials.log_access()
            announce(Addresses(at_port(config.listen, port), self._http, 0))
            signalled = asyncio.create_task(stopping.wait(), name="signal")
            done, _ = await asyncio.wait([*tasks, signalled], return_when=asyncio.FIRST_COMPLETED)
            code = exit_code([task for task in done if task is not signalled])
            await self._drain(grpc)
            return code
        finally:
            http.stop()
            await end(tasks)
            await self.peers.close()
            shared.audit.close()
            await asyncio.to_thread(self._store.close)

    def _start(self, http: Any, port: int) -> list[asyncio.Task[Any]]:
        """Start the tasks of the process. port: of the gRPC server."""
        components = {
            "http": http,
            "note": self._keep(),
            "writers": self.shared.writers.run(self.shared.metrics.access.cut_calls),
            "files": self._watch_files(),
            "strangers": self.shared.security.strangers.run(port),
        }
        return [asyncio.create_task(run, name=name) for name, run in components.items()]

    async def _drain(self, grpc: Any) -> None:
        """Hand the shards over one at a time, then refuse new work and end the rest of the calls."""
        started = time.monotonic()
        self._draining = True
        if self._moving:
            await asyncio.wait([self._moving])
        await self._report()
        with contextlib.suppress(StoreUnavailable, StoreRefused):
            await self._look()
        await self.shards.leave(lambda shard: heir(self.address, shard, self.alive))
        self.shared.events.close()
        self.shared.viewing.close()
        await grpc.stop(self.config.drain_s)
        with contextlib.suppress(StoreUnavailable, StoreRefused):
            await asyncio.to_thread(self._store.delete, [note_name(self.address)])
        log.info("drained", seconds=round(time.monotonic() - started, 3))

    # ---- notes and plans

    async def _keep(self) -> None:
        """Write the note, look at the others' and act, every `heartbeat_s`, until cancelled."""
        while True:
            try:
                await self._look()
                await self._act(plan(self.address, self._count, self.shards.owned.keys(), self.alive))
            except (
                StoreUnavailable,
                StoreRefused,
            ) as error:  # refused: keys that change, a full disk
                log.warning("the store does not answer", why=str(error))
            await self._report()
            await asyncio.sleep(self.config.heartbeat_s)

    async def _look(self) -> None:
        """Write this node's note and read all. Raises StoreUnavailable."""
        self._beat += 1
        await asyncio.to_thread(self._store.note, note_name(self.address), self._note().encode())
        notes = await asyncio.to_thread(read_notes, self._store)
        self.alive = self._seen.look(notes, self.shared.clock())
        self.metrics.nodes.set(len(self.alive))

    def _note(self) -> Note:
        """Return what this node writes of itself now."""
        return Note(
            self.address, self._http, self._started, self._beat, self.config.heartbeat_s, self.shards.owned,
            self.shards.warm, self._draining,
        )  # fmt: skip

    async def _act(self, to_do: Plan) -> None:
        """Claim what is to be claimed; begin to hand over or to fetch one shard, if nothing of that is under way."""
        for shard in to_do.claim:
            with contextlib.suppress(ServiceError):  # another node has it, or it is logged and tried again
                await self.shards.parts(shard)
        self._settled = True
        if self._moving and not self._moving.done():
            return
        self.shards.forget_all_but(to_do.warm)
        cold = [shard for shard in to_do.warm if shard not in self.shards.warm]
        if to_do.hand_over:
            self._moving = asyncio.create_task(self.shards.hand_over(*to_do.hand_over), name="hand over")
        elif cold:
            self._moving = asyncio.create_task(self.shards.prepare(cold[0]), name="prepare")
        if self._moving:
            self._moving.add_done_callback(_log_failure)

    # ---- what others see

    def obstacle(self) -> str:
        """Return why no streams are accepted, or ""."""
        if self._draining:
            return "draining"
        stuck = [held.components.journal.no_space for held in self.shards.held.values()]
        return next((str(error.condition) for error in stuck if error), "") or ("" if self._settled else "starting")

    def text(self) -> bytes:
        """Return the text of a scrape; any thread may call."""
        return scrape.text(self.shared.registry, {shard: held.registry for shard, held in [*self.shards.held.items()]})

    async def _report(self) -> None:
        """Report on the health service what /readyz reports."""
        status = STATUS.NOT_SERVING if self.obstacle() else STATUS.SERVING
        for name in ("", *SERVICES):
            await self.health.set(name, status)

    async def _watch_files(self) -> None:
        while True:
            await asyncio.sleep(FILES_PERIOD_S)
            await self.shared.credentials.look()
            await self._report()


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.warning("not done, and tried again", what=task.get_name(), why=str(error))
