"""The components of one shard, built stage by stage: each stage uses only what the stages before it have set.

A single server is one shard without a number. A node of a cluster has one such set for each shard that it owns.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import structlog

from service.common.tasks import end
from service.datadir.formats import check_formats
from service.edge.parts import Parts, Whereabouts
from service.engine.loaded import Engine
from service.journal.writer import JournalFailed
from service.learning.dispatch import Learning
from service.learning.intake import Intake
from service.learning.pool import TrainerProcesses
from service.learning.replaying import Replayer
from service.observe.rendering import Registry
from service.publishing.assembly import Publishing
from service.server.settings import (
    learning_settings,
    live_settings,
    publishing_settings,
    upkeep_settings,
)
from service.server.shard.stores import Stores
from service.server.shard.upkeep import Upkeep
from service.server.shared import Shared
from service.serving.erasure import Elsewhere, Erasure
from service.serving.live import LivePath
from service.storage.directory import prepare
from service.trainer import placing
from service.viewing.seen import Seen

log = structlog.get_logger("server")

Work = Coroutine[Any, Any, Any]


class Components:
    """Every component of one shard, recovered and not running."""

    def __init__(
        self,
        shared: Shared,
        data: Path,
        stores: Stores | None = None,
        registry: Registry | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """Open the data directory and recover. Raises what the stores raise: each error names file and remedy.

        stores: opened already, from a store that nodes share; None: those of `data` alone. registry: for the metrics of
        this shard alone; None: those of the process. elsewhere: copies of the data that erasing must reach too.
        """
        self.shared, self.data, self.config = shared, data, shared.config
        self.events, self.audit, self.tenants = shared.events, shared.audit, shared.tenants
        self.registry = registry or shared.registry
        self.metrics = shared.metrics if registry is None else shared.metrics_of_shard(registry)
        self._clock, self._wall = shared.clock, shared.wall
        if stores is None:
            prepare(data)
            check_formats(data)
        self.stores = stores or Stores(data, self.config.segment_bytes, self.config.commit_s)
        self.journal, self.states, self.versions = self.stores.journal, self.stores.states, self.stores.versions
        self._recover()
        self._publish()
        self._learn()
        self._maintain(elsewhere)

    def _recover(self) -> None:
        self.engine = Engine(self.config.session_memory_bytes)
        self.metrics.serving.sessions.set_function(lambda: len(self.engine))
        self.serving = LivePath(
            live_settings(self.config), self.journal, self.versions, self.states, self.engine, self.tenants,
            self.metrics, self.events, self._clock, self._wall,
        )  # fmt: skip
        self.stores.recover(self.serving, self.metrics)

    def _publish(self) -> None:
        live = self.serving
        self.publishing = Publishing(
            publishing_settings(self.config), live.catalog, live.admission, self.journal, self.versions, self.engine,
            live.loader, self.metrics, self._clock, self._wall,
        )  # fmt: skip
        self.publisher, self.control = self.publishing.publisher, self.publishing.control

    def _learn(self) -> None:
        keys = {number: model.key for number, model in self.serving.catalog.models.items()}
        count = placing.processes(self.config.trainers, placing.cores())
        if moved := placing.move(self.stores.data, count, keys, whole=not self.journal.first_position):
            log.info("models moved to other trainers", models=moved, trainers=count)
        catalog = self.serving.catalog
        self.intake = Intake(catalog, self.serving.admission, self.journal, self.metrics.intake)
        publishing = self.publishing
        self.learning = Learning(
            learning_settings(self.config, self.data, count), catalog, self.journal, self.versions, self.tenants,
            self.intake, publishing.publisher, publishing.retention, publishing.freshness,
            self.metrics.trainer, self.metrics.learner, self.metrics.storage, self._clock,
        )  # fmt: skip
        self.journal.learn_every_of = self.learning.learn_every
        self.trainers = self.learning.trainers
        self.registry.register(TrainerProcesses(self.trainers))

    def _maintain(self, elsewhere: Elsewhere | None) -> None:
        config, catalog = self.config, self.serving.catalog
        self.upkeep = Upkeep(
            upkeep_settings(config), catalog, self.serving.residency, self.journal, self.states,
            self.publishing.retention, self.learning, self.metrics.storage, self.metrics.journal, self._clock,
            self._wall,
        )  # fmt: skip
        self.erasure = Erasure(
            self.stores.data, catalog, self.journal, self.versions, self.states, self.upkeep.save, self.trainers,
            self.audit, self._wall, elsewhere,
        )  # fmt: skip

    def parts(self, whereabouts: Whereabouts | None = None) -> Parts:
        """Return what calls for the models of this shard use."""
        live = self.serving
        replayer = Replayer(self.intake, live.residency, self.journal, self.trainers)
        return Parts(
            live.catalog, live.admission, live.opening, live.residency, live.champions, live.ticks, live.waves,
            live.runs, live.turns, self.intake, replayer, self.trainers, self.journal, self.versions, self.control,
            self.erasure, self.metrics, self.seen(), self._clock, whereabouts,
        )  # fmt: skip

    def seen(self) -> Seen:
        """Return what looks at the models of this shard read."""
        live = self.serving
        return Seen(
            live.catalog, live.admission, live.residency, live.loader, self.versions, self.trainers, self.journal,
            self.metrics, self.events, self._clock, self._wall,
        )  # fmt: skip

    # ---- running

    def tasks(self, train: Callable[[], Work] | None = None) -> dict[str, Work]:
        """Return what must run, by name; the journal is first, hence stopped last. train: runs the trainers when they
        are needed; None: at once."""
        return {
            "journal": self.journal.run(),
            "trainers": (train or self.trainers.run)(),
            "snapshots": self.upkeep.run(),
            "erasure": self.erasure.run(),
        }

    def leave(self, shard: int = 0, address: str = "") -> None:
        """Refuse new work and wake every call, which then ends. address: of the node that takes the shard over."""
        admission = self.serving.admission
        admission.draining, admission.shard, admission.moved_to = True, shard, address
        for model in self.serving.catalog.models.values():
            model.owners.wake()
        self.intake.wake()

    async def flush(self, save: bool) -> bool:
        """Commit what the journal holds, and save the states too if asked; after a failure they are left to the
        journal. Returns whether everything acknowledged is on disk; it is not where the disk fails or is full."""
        with contextlib.suppress(JournalFailed):
            await self.journal.flush(unless_full=True)
        if entries := self.journal.pending_entries:
            log.error("stopping with entries that are not on disk", entries=entries, why=str(self.journal.no_space))
        flushed = not self.journal.failure and not self.journal.pending_entries
        if flushed and save:
            await self.upkeep.save_if_room()
        return flushed

    async def stop(self, tasks: list[asyncio.Task[Any]]) -> None:
        """Cancel the tasks in reverse order and close the files: the trainers report to the journal to the end."""
        self.serving.steps.close()
        await end(tasks)
        self.journal.close()
        await asyncio.to_thread(self.stores.close)
