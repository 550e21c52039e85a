"""One shard that this node owns: its components and their tasks, from the claim to the release."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from service.cluster.shards.keeper import NO_IMAGE, Keeper
from service.cluster.shards.opening import OpenedShard
from service.cluster.shards.versions import SharedVersions
from service.cluster.slices.counts import Counts
from service.cluster.slices.slicing import Slicing
from service.edge.parts import Parts, Whereabouts
from service.observe.rendering import Registry
from service.server.components import Components
from service.server.shard.stores import Stores
from service.server.shared import Shared

log = structlog.get_logger("cluster")


class Held:
    """A claimed shard in service. `on_end` is called, once, when one of its tasks has ended although none should."""

    def __init__(self, shared: Shared, opened: OpenedShard, node: str, counts: Counts) -> None:
        """Recover the shard. Blocks, for as long as the recovery takes. Raises as `Components`."""
        self.shard, self.epoch = opened.shard, opened.epoch
        self.registry, config = Registry(), shared.config
        self._versions = SharedVersions(opened.folder / "versions.db", opened)
        journal = opened.journal(config.commit_s)
        self.keeper = Keeper(opened, journal, self._versions, config.image_s, config.journal_keep_bytes)
        stores = Stores(opened.folder, config.segment_bytes, config.commit_s, journal, self._versions)
        self.components = Components(shared, opened.folder, stores, self.registry, self.keeper)
        self.keeper.learned = lambda: self.components.learning.checkpoint
        self.slicing = Slicing(opened, counts, self.components, config.slices_s)
        self.keeper.needed = self.slicing.follower.needed
        self.keeper.save = self._save
        self.parts: Parts = self.components.parts(Whereabouts(self.shard, node, self.epoch))
        self.leaving = False
        self._tasks: list[asyncio.Task[Any]] = []
        self._watching: asyncio.Task[None] | None = None

    @property
    def moved_to(self) -> str:
        """The address of the node that takes the shard over, once `leaving`; "" if it is unknown."""
        return self.components.serving.admission.moved_to

    def start(self, on_end: Callable[[Held, BaseException | None], Coroutine[Any, Any, None]]) -> None:
        """Start the components."""
        self._versions.attach(self.components.journal, asyncio.get_running_loop())
        components = self.components.tasks(self._train) | {"keeper": self.keeper.run(), "slices": self.slicing.run()}
        self._tasks = [asyncio.create_task(run, name=f"{name} {self.shard}") for name, run in components.items()]
        self._watching = asyncio.create_task(self._watch(on_end), name=f"shard {self.shard}")

    async def _save(self) -> None:
        """Save the streams; not while the store is away, which would wait for it. Raises JournalFailed."""
        journal = self.components.journal
        await journal.flush(unless_full=True)
        if not journal.no_space:
            await self.components.upkeep.save_if_room()

    async def _train(self) -> None:
        """Run the trainers from the first model on: each is a process, and most shards of a small cluster are empty."""
        await self.components.serving.catalog.inhabited.wait()
        await self.components.trainers.run()

    async def _watch(self, on_end: Callable[[Held, BaseException | None], Coroutine[Any, Any, None]]) -> None:
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            error = None if task.cancelled() else task.exception()
            log.error("a component of a shard has ended", component=task.get_name(), error=str(error))
        await on_end(self, self.components.journal.failure and self.components.journal.failure.__cause__)

    async def release(
        self, address: str, drain_s: float, *, image: bool, leaving: Callable[[], Awaitable[None]]
    ) -> None:
        """End the shard's calls, commit what the journal holds, and stop.

        address: of the node that takes the shard over; "" if it is unknown. image: make an image first, while the shard
        serves, so that the next owner has little to replay. leaving: called before the first call is ended.
        """
        if self._watching is not None and self._watching is not asyncio.current_task():
            self._watching.cancel()
        if image:
            await self._last_image(drain_s)
        self.leaving = True
        await leaving()
        self.components.leave(self.shard, address)
        await self._calls_end(drain_s)
        await self.components.flush(save=False)
        await self.components.stop(self._tasks)

    async def _last_image(self, most_s: float) -> None:
        """Make an image within `most_s`. Without one, the next owner replays more."""
        try:
            async with asyncio.timeout(most_s):
                await self.keeper.make_image()
        except NO_IMAGE as error:
            log.warning("no image of a shard that is released", shard=self.shard, why=str(error) or "it took too long")

    async def _calls_end(self, drain_s: float) -> None:
        """Wait until no call has a stream open, at most `drain_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                while any(model.owners.in_calls for model in self.components.serving.catalog.models.values()):
                    await asyncio.sleep(0.005)
