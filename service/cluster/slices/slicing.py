"""All that one shard does for models with slices: as the home of some, and with slices of others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import structlog

from model.spec import ModelSpec
from service.cluster.nodes.placing import shard_of
from service.cluster.shards.opening import OpenedShard
from service.cluster.slices import names
from service.cluster.slices.counts import Counts
from service.cluster.slices.following import Follower
from service.cluster.slices.gathering import Gatherer, Leader
from service.cluster.slices.head import Head, Start
from service.cluster.slices.reading import SliceLost
from service.cluster.store.seam import Missing, StoreUnavailable
from service.common.errors import Invalid, ServiceError, Unavailable, store_unreachable
from service.common.names import ModelKey
from service.engine.session import BadVersion
from service.server.components import Components
from service.storage.disk import NoSpace
from service.storage.versions import VersionCorrupt, VersionMissing
from service.streams.served import ServedModel

log = structlog.get_logger("slices")

LATER = (
    StoreUnavailable, SliceLost, ServiceError, BadVersion, VersionMissing, VersionCorrupt, NoSpace, ValueError,
)  # fmt: skip  # tried again at the next look


class Slicing:
    """The slices of one shard that is held. `run` is its task."""

    def __init__(self, opened: OpenedShard, counts: Counts, components: Components, look_s: float) -> None:
        """look_s: time between two looks at the store."""
        self._store, self._shard, self._shards, self._counts = opened.store, opened.shard, counts.shards, counts
        self._log, self._look_s = opened.log, look_s
        self._catalog, self._journal = components.serving.catalog, components.journal
        self._clock = components.shared.clock
        self.leader = Leader(self._store, opened.epoch, self._catalog, self._journal, components.versions)
        self.follower = Follower(self._store, self._shard, self._shards, components, self._end)
        self._gatherers: dict[int, Gatherer] = {}
        self._heads_read = False
        self._why: dict[int, str] = {}  # by model: what is wrong, as last logged
        components.publishing.creation.slicing = self

    # ---- creation

    async def slices(self, key: ModelKey, spec: ModelSpec) -> int:
        """Return the slices of a model that is to be made. Raises Invalid, Unavailable."""
        count = await self._counts.decide(key)
        if count and await self._asking(self._store.list, names.starts(key)):
            remedy = "slices of a deleted model of this name are still being removed: try again"
            raise Unavailable("name", key.name, remedy, retry_s=2 * self._look_s)
        if count and spec.shadow:
            remedy = "a shadow answers no calls: take it out of the setting `slices`"
            raise Invalid("spec.shadow", spec.shadow, remedy)
        return count

    async def created(self, model: ServedModel) -> None:
        """Let the slices find a model. Raises Unavailable."""
        try:
            await self.leader.publish(model)
        except StoreUnavailable as error:
            raise store_unreachable() from error

    async def _asking(self, call: Callable[[str], Any], name: str) -> Any:
        """Call the store for a caller that waits. Raises Unavailable."""
        try:
            return await asyncio.to_thread(call, name)
        except StoreUnavailable as error:
            raise store_unreachable() from error

    async def ensure(self, key: ModelKey, index: int) -> None:
        """Make a slice of this shard, unless it exists. Raises Unavailable, NotFound."""
        await self.follower.ensure(key, index)

    @property
    def waiting(self) -> int:
        """How many models of this shard could not be gathered or followed at the last look."""
        return len(self._why)

    # ---- the work

    async def run(self) -> None:
        """Gather and follow until cancelled. Raises JournalFailed."""
        while True:
            more = await self.step()
            await asyncio.sleep(0 if more else self._look_s)

    async def step(self) -> bool:
        """Do what there is to do, once; return whether more is there."""
        more = False
        await self._about(0, self._bury)
        for number, model in [*self._catalog.models.items()]:
            if model.slices.count:
                more |= bool(await self._about(number, partial(self._lead, model)))
            elif model.slices.part:
                await self._about(number, partial(self.follower.step, model))
        return more

    async def _lead(self, model: ServedModel) -> bool:
        gatherer = self._gatherers.get(model.number)
        if gatherer is None:
            made = Gatherer(self._store, self._shard, self._shards, self._catalog, self._journal, model, self._clock)
            gatherer = self._gatherers[model.number] = made
        more, wrong = False, None
        try:
            more = await gatherer.step()
        except LATER as error:  # the slices follow all the same
            wrong = error
        if not model.deleted:
            await self.leader.publish(model)
        if wrong:
            raise wrong
        return more

    async def _bury(self) -> None:
        """Let the slices of deleted models find that, also where a former owner did not; and finish what it began."""
        if not self._heads_read:
            for head in await asyncio.to_thread(self._all_heads):
                if not head.deleted and shard_of(head.key, self._shards) == self._shard:
                    self.leader.heads.setdefault(head.home, head)
                await self.follower.forget_begun(head, shard_of(head.key, self._shards))
            self._heads_read = True
        for number, head in [*self.leader.heads.items()]:
            if number not in self._catalog.models:
                await self.leader.delete(head)
                self._gatherers.pop(number, None)

    def _all_heads(self) -> list[Head]:
        """Return the heads of all models with slices. In a thread."""
        found = []
        for listed in self._store.list(names.PREFIX):
            if listed.name.endswith(names.HEAD):
                with contextlib.suppress(Missing):
                    found.append(Head.decode(self._store.get(listed.name)))
        return found

    async def _about(self, number: int, what: Callable[[], Awaitable[Any]]) -> Any:
        """Do something about a model; what fails is logged once, and tried again at the next look."""
        try:
            done = await what()
        except LATER as error:
            if self._why.get(number) != str(error):
                self._why[number] = str(error)
                log.error("slices wait", shard=self._shard, model=number, why=str(error))
            return None
        self._why.pop(number, None)
        return done

    def _end(self) -> Start:
        return Start(*self._log.ledger.boundary(self._journal.durable_position))
