"""Periodic upkeep: snapshots of the streams, and deletion of journal segments that nothing needs any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import structlog

from service.journal.writer import Journal
from service.learning.dispatch import Learning
from service.observe.server_metrics import JournalMetrics, StorageMetrics
from service.publishing.retention import Retention
from service.server.shard import memory
from service.serving.catalog import Catalog
from service.storage.disk import NoSpace
from service.storage.snapshot import Part
from service.storage.states import States
from service.streams.residency import Residency

log = structlog.get_logger("upkeep")

TRIM_STREAMS = 1000  # streams saved and evicted by one snapshot from which on returning memory is worth the work


@dataclass(frozen=True, slots=True)
class UpkeepSettings:
    """How often to save, in seconds, and how much of the journal to keep, in bytes and seconds."""

    snapshot_s: float
    journal_keep_bytes: int
    journal_keep_s: float


class Upkeep:
    """Saves changed streams every `snapshot_s`, then deletes journal that snapshot and checkpoint no longer need."""

    def __init__(
        self,
        settings: UpkeepSettings,
        catalog: Catalog,
        residency: Residency,
        journal: Journal,
        states: States,
        retention: Retention,
        learning: Learning,
        storage: StorageMetrics,
        journal_metrics: JournalMetrics,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """clock: monotonic seconds; wall: seconds since 1970, which gives segments their age."""
        self._settings, self._catalog, self._residency, self._journal = settings, catalog, residency, journal
        self._states, self._retention, self._learning = states, retention, learning
        self._storage, self._journal_metrics, self._clock, self._wall = storage, journal_metrics, clock, wall
        self._saving = asyncio.Lock()  # one snapshot at a time, in order of position

    async def run(self) -> None:
        """Save every `snapshot_s` until cancelled."""
        while True:
            await asyncio.sleep(self._settings.snapshot_s)
            await self.save_if_room()

    async def save_if_room(self) -> None:
        """Save, or on a full disk leave it to the next time: the journal holds everything."""
        try:
            await self.save()
        except NoSpace as error:
            self._storage.disk_full.labels("snapshot").inc()
            log.error("no snapshot: the disk is full", why=str(error))

    async def save(self) -> None:
        """Save the models and streams that changed.

        A model's rows are copied as they are at one moment, which its journal offset names. They are saved once the
        journal is durable up to that offset.
        """
        async with self._saving:
            await self._save()

    async def _save(self) -> None:
        started = self._clock()
        position = self._journal.durable_position
        models, gone = self._catalog.models, list(self._catalog.gone)
        parts: list[Part] = []
        try:
            for model in [models[n] for n in sorted(self._catalog.changed)]:
                parts.append(model.snapshot(self._journal.offset(model.number)))
                while model.saving.gather():
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
            await self._journal.flush()
            await asyncio.to_thread(self._write, position, parts, self._journal.durable_position, gone)
        except BaseException:
            for part in parts:
                if part.model.model in models:
                    models[part.model.model].saving.failed(part)
            raise
        for part in parts:
            if part.model.model in models:
                models[part.model.model].saving.saved(part)
        self._catalog.gone.difference_update(gone)
        evicted = await self._residency.evict([part.model.model for part in parts])
        if evicted + sum(len(part.ids) for part in parts) > TRIM_STREAMS:
            await asyncio.to_thread(memory.trim)
        await asyncio.to_thread(self._retention.snapshot_taken, {p.model.model: p.model.champion for p in parts})
        self._storage.snapshot_seconds.observe(self._clock() - started)
        self._storage.snapshot_position.set(position)
        await self._retain(position)

    async def _retain(self, snapshot: int) -> None:
        """Delete segments over the size or age limit that precede both snapshot and checkpoint."""
        await self._learning.bound_unlearned()
        needed = min(snapshot, self._learning.checkpoint)
        keep = self._settings.journal_keep_bytes, self._settings.journal_keep_s
        try:
            dropped = await self._journal.retain(needed, *keep, self._wall())
        except OSError as error:  # tried again after the next snapshot
            log.warning("journal segments cannot be deleted", error=str(error))
        else:
            self._journal_metrics.dropped.inc(dropped)
            self._journal_metrics.journal_size.set(self._journal.size)

    def _write(self, position: int, parts: list[Part], journal_end: int, gone: list[int]) -> None:
        """Write the parts and delete the models that are gone. Runs in a thread."""
        self._states.save(
            position,
            [part.model for part in parts],
            chain.from_iterable(part.streams() for part in parts),
            [(part.model.model, number) for part in parts for number in part.deleted],
            journal_end,
            [part.block for part in parts],
            {part.model.model: part.answers_start for part in parts},
            gone,
            [part.model.model for part in parts if part.rewritten],
        )
