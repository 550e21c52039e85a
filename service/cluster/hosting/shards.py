"""The shards of this node: claim one when it is asked for, release it, give it up when another node has claimed it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from grpc_health.v1 import health_pb2

from service.cluster.hosting.held import Held
from service.cluster.hosting.peers import Peers, Standing
from service.cluster.nodes.placing import health_name
from service.cluster.shards.opening import Claimed, Prepared, Stale, prepare
from service.cluster.shards.owner import owner_of
from service.cluster.slices.counts import Counts
from service.cluster.store.seam import Conflict, Store, StoreLost, StoreRefused, StoreUnavailable
from service.common.errors import Moved, Unavailable, store_unreachable
from service.edge.guard.health import Health
from service.edge.parts import Parts
from service.observe.cluster_metrics import ClusterMetrics
from service.server.shared import Shared

log = structlog.get_logger("cluster")

TRUSTED_S = 0.5  # for which a peer's word that it owns a shard is believed
LEAVING_S = 10.0  # for which a peer may take to hand a shard over
AGAIN_S = 0.02  # between two questions to a peer that hands a shard over
FAILED_S = 10.0  # after which a shard that could not be opened is tried again

STATUS = health_pb2.HealthCheckResponse


class Shards:
    """The shards that this node owns, by number. All methods belong to the event loop."""

    def __init__(
        self, shared: Shared, store: Store, peers: Peers, health: Health, metrics: ClusterMetrics, me: str, count: int
    ) -> None:
        """me: the address by which others reach this node; count: of the shards of the cluster."""
        self._shared, self._store, self._peers, self._health = shared, store, peers, health
        self._metrics, self._me = metrics, me
        self.count = count
        self.counts = Counts(store, shared.config.slices, count)
        self.held: dict[int, Held] = {}
        self._prepared: dict[int, Prepared] = {}
        self._acquiring = [asyncio.Lock() for _ in range(count)]
        self._searches: dict[int, asyncio.Task[Held]] = {}
        self._elsewhere: dict[int, tuple[str, float]] = {}  # shard → owner, and when that was known
        self._failed: dict[int, tuple[str, float]] = {}  # shard → why, and when
        self.leaving = False  # no shard is claimed any more

    @property
    def owned(self) -> dict[int, int]:
        """The epoch of each shard that serves here."""
        return {shard: held.epoch for shard, held in self.held.items() if not held.leaving}

    @property
    def warm(self) -> tuple[int, ...]:
        """Shards of others whose data is here."""
        return tuple(sorted(self._prepared))

    # ---- finding

    async def parts(self, shard: int) -> Parts:
        """Return the parts of a shard, claimed first if its owner is gone. Raises Moved, Unavailable."""
        held = self.held.get(shard)
        if held is None or held.leaving:
            held = await asyncio.shield(self._search(shard))  # a caller that leaves must not leave a claim behind
        return held.parts

    def _search(self, shard: int) -> asyncio.Task[Held]:
        """Return the task, shared by all callers, that finds or claims a shard."""
        task = self._searches.get(shard)
        if task is None or task.done():
            task = self._searches[shard] = asyncio.create_task(self._acquire(shard), name=f"acquire {shard}")
            task.add_done_callback(_retrieve)
        return task

    async def _acquire(self, shard: int) -> Held:
        async with self._acquiring[shard]:
            return await self._acquire_alone(shard)

    async def _acquire_alone(self, shard: int) -> Held:
        held = self.held.get(shard)
        if held is not None:
            if not held.leaving:
                return held
            if held.moved_to:
                raise Moved(shard, held.moved_to)
        if held is not None or self.leaving:
            raise Unavailable("shard", shard, "this node is leaving: connect again in a moment", retry_s=0.2)
        over = await self._check_free(shard)
        why, since = self._failed.get(shard, ("", 0.0))
        if why and self._shared.clock() - since < FAILED_S:
            raise Unavailable("shard", shard, f"it cannot be opened: {why}", retry_s=FAILED_S)
        return await self._claim(shard, over)

    async def _check_free(self, shard: int) -> int:
        """Return the newest epoch whose owner is gone, or hands the shard over; 0 for a shard without a claim.

        Raises Moved if another node owns the shard and answers for it.
        """
        address, since = self._elsewhere.get(shard, ("", 0.0))
        if address and self._shared.clock() - since < TRUSTED_S:
            raise Moved(shard, address)
        try:
            owner = await asyncio.to_thread(owner_of, self._store, shard)
        except StoreUnavailable as error:
            raise store_unreachable() from error
        except (StoreLost, StoreRefused) as error:
            log.error("the owner of a shard cannot be found", shard=shard, why=str(error))
            raise Unavailable("shard", shard, "its owner cannot be found: the log says why", retry_s=1.0) from error
        if owner is None:
            return 0
        await self._check_gone(shard, owner.address)
        return owner.epoch

    async def _check_gone(self, shard: int, address: str) -> None:
        """Return once a node does not own a shard any more. Raises Moved if it does."""
        loop = asyncio.get_running_loop()
        patience = loop.time() + LEAVING_S
        while address != self._me:
            standing = await self._peers.standing(address, shard)
            if standing is Standing.OWNED:
                self._elsewhere[shard] = address, self._shared.clock()
                raise Moved(shard, address)
            if standing is Standing.NONE or loop.time() > patience:
                return
            await asyncio.sleep(AGAIN_S)

    # ---- owning

    async def prepare(self, shard: int) -> None:
        """Fetch the data of a shard that another node owns, so that taking it over is quick."""
        if self.leaving or shard in self.held or self._acquiring[shard].locked():
            return
        async with self._acquiring[shard]:
            if shard not in self.held:
                self._prepared[shard] = await asyncio.to_thread(self._prepare, shard)

    def forget_all_but(self, shards: tuple[int, ...]) -> None:
        """Release the data of shards that are not to come after all."""
        for shard in self._prepared.keys() - set(shards):
            if not self._acquiring[shard].locked():
                self._prepared.pop(shard).close()

    def _prepare(self, shard: int) -> Prepared:
        config = self._shared.config
        return prepare(self._store, shard, config.data / f"shard-{shard:03d}", config.segment_bytes)

    async def _claim(self, shard: int, over: int) -> Held:
        """Claim the shard, recover it, put it into service; over: see `Prepared.claim`. Raises Moved, Unavailable."""
        started, held = self._shared.clock(), None
        # Before the claim: a node that finds it must not take this one for gone while it recovers. Calls wait.
        await self._health.set(health_name(shard), STATUS.SERVING)
        try:
            while held is None:
                try:
                    held = await self._opened(shard, over)
                except Claimed as other:
                    self._metrics.duels.inc()
                    await self._check_gone(shard, other.by)
                    over = other.epoch  # it died before it could serve
        finally:
            if held is None:
                await self._health.set(health_name(shard), STATUS.SERVICE_UNKNOWN)
        self.held[shard] = held
        held.start(self._ended)
        self._metrics.owns(shard, held.epoch)
        seconds = round(self._shared.clock() - started, 3)
        models = len(held.components.serving.catalog.models)
        log.info("claimed", shard=shard, epoch=held.epoch, models=models, seconds=seconds)
        return held

    async def _opened(self, shard: int, over: int) -> Held:
        """Claim and recover the shard. Raises Claimed, Unavailable."""
        try:
            return await asyncio.to_thread(self._open, self._prepared.pop(shard, None), shard, over)
        except Claimed:
            raise
        except StoreUnavailable as error:
            raise store_unreachable() from error
        except Exception as error:  # a lost entry, a full disk, damage, a bug: the other shards of this node go on
            self._failed[shard] = str(error), self._shared.clock()
            self._metrics.failed.inc()
            log.error("a shard cannot be opened", shard=shard, why=str(error))
            raise Unavailable("shard", shard, "it cannot be opened: its log says why", retry_s=FAILED_S) from error

    def _open(self, prepared: Prepared | None, shard: int, over: int) -> Held:
        """Claim and recover. Runs in a thread."""
        while True:
            prepared = prepared or self._prepare(shard)
            try:
                return Held(self._shared, prepared.claim(self._me, over), self._me, self.counts)
            except Stale:  # fetched long ago: the owner has removed since what it would continue from
                prepared.close()
                prepared = None
            except BaseException:
                prepared.close()
                raise

    # ---- leaving

    async def hand_over(self, shard: int, address: str) -> None:
        """Release a shard to another node. Its calls end with that address once all that was answered is durable."""
        held = self.held[shard]
        await self._release(held, address, image=True)
        self._metrics.handovers.inc()
        log.info("handed over", shard=shard, to=address)

    async def _release(self, held: Held, address: str, *, image: bool) -> None:
        """Take a shard out of service."""

        async def leaving() -> None:
            await self._health.set(health_name(held.shard), STATUS.NOT_SERVING)

        try:
            await held.release(address, self._shared.config.drain_s, image=image, leaving=leaving)
        finally:
            self.held.pop(held.shard, None)
            self._metrics.gone(held.shard)
            await self._health.set(health_name(held.shard), STATUS.SERVICE_UNKNOWN)

    async def _ended(self, held: Held, cause: BaseException | None) -> None:
        """Give a shard up: another node has claimed it, or a component has failed."""
        address = ""
        if isinstance(cause, Conflict):
            self._metrics.fenced.inc()
            address = await self._owner(held.shard)
            log.warning("lost a shard to another node", shard=held.shard, epoch=held.epoch, node=address or "unknown")
        else:
            self._metrics.failed.inc()
            self._failed[held.shard] = str(cause or "a component has ended"), self._shared.clock()
        await self._release(held, address if address != self._me else "", image=False)

    async def _owner(self, shard: int) -> str:
        """Return the address of a shard's owner; "" if the store does not answer."""
        try:
            owner = await asyncio.to_thread(owner_of, self._store, shard)
        except (StoreUnavailable, StoreLost, StoreRefused) as error:
            log.warning("the owner of a shard is unknown", shard=shard, why=str(error))
            return ""
        return owner.address if owner else ""

    async def leave(self, heir: Callable[[int], str]) -> None:
        """Hand all shards over, each to its heir; without one, release it with an image."""
        self.leaving = True
        for shard in sorted(self.held):
            async with self._acquiring[shard]:
                held = self.held.get(shard)
                if held is not None and not held.leaving:
                    await self._release(held, heir(shard), image=True)
        while self._prepared:  # a look at the other nodes may release some meanwhile
            _, prepared = self._prepared.popitem()
            await asyncio.to_thread(prepared.close)


def _retrieve(task: asyncio.Task[Held]) -> None:
    """Mark an error as seen: every caller that waits gets it, and all may have left."""
    if not task.cancelled():
        task.exception()
