"""The home's side: append what the slices have journaled to the journal that is learned, and write the head."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace

import structlog

from service.cluster.shards import bundles
from service.cluster.slices import names
from service.cluster.slices.head import Head, Start, read_start
from service.cluster.slices.reading import READ_BYTES, SliceLost, as_gathered, is_slice, read_after
from service.cluster.store.seam import Conflict, Store
from service.journal.records import SHARD, Gathered, Record, Ticks, chunk_head, decode_chunk
from service.journal.segments import Frame
from service.journal.slices import Cursor
from service.journal.writer import Journal
from service.serving.catalog import Catalog
from service.storage.versions import Versions
from service.streams.served import ServedModel

log = structlog.get_logger("slices")

# How far a slice's shard is read is recorded with the slice's entries, or after so much of other models; else its
# journal could not be trimmed, or erased.
LAZY_BYTES, LAZY_S = READ_BYTES // 4, 30.0


class Gatherer:
    """Reads the slices of one model. shards: of the cluster; shard: the home's."""

    def __init__(
        self,
        store: Store,
        shard: int,
        shards: int,
        catalog: Catalog,
        journal: Journal,
        model: ServedModel,
        clock: Callable[[], float],
    ) -> None:
        """clock: monotonic seconds."""
        self._store, self._shard, self._shards = store, shard, shards
        self._catalog, self._journal, self.model = catalog, journal, model
        self._at: dict[int, Cursor] = dict(model.slices.cursors)  # read so far, which may be more than is recorded
        self._clock, self._recorded = clock, dict[int, float]()  # by slice: when it was recorded last
        self._starts: dict[int, Start] = {}  # of slices of which nothing was found yet

    async def step(self) -> bool:
        """Read once from every slice; what was found is durable on return. Returns whether more is there.

        Raises SliceLost, StoreUnavailable, JournalFailed.
        """
        count = self.model.slices.count
        found = await asyncio.gather(*(self._read(index) for index in range(count)), return_exceptions=True)
        for index, frames in enumerate(found):
            if not isinstance(frames, BaseException) and frames and not self.model.deleted:
                self._append(index, frames)
        await self._journal.flush()
        for error in found:
            if isinstance(error, BaseException):
                raise error
        return any(
            frames[-1].end - frames[0].start > READ_BYTES // 2
            for frames in found
            if isinstance(frames, list) and frames
        )

    async def _read(self, index: int) -> list[Frame]:
        if index not in self._at or not self._at[index].model:
            start = await asyncio.to_thread(read_start, self._store, self.model.key, self.model.number, index)
            if start is None:
                return []  # no stream of it was ever opened
            if start != self._starts.get(index):  # its first owner may have been killed before it began
                self._starts[index], self._at[index] = start, Cursor(0, *start, 0)
        at, shard = self._at[index], names.shard_of_slice(self._shard, index, self._shards)
        return await asyncio.to_thread(read_after, self._store, shard, at.position, at.chain)

    def _append(self, index: int, frames: list[Frame]) -> None:
        """Journal what frames say of a slice, and up to where they are. All of it becomes one commit, as nothing
        awaits, and no part of it is journaled if a record is refused."""
        model, count = self.model, self.model.slices.count
        number, _, _, offset = self._at[index]
        records: list[Record] = []
        for frame in frames:
            of, first = chunk_head(frame.payload)
            if not number and of != SHARD and not first and is_slice(frame.payload, *model.key, index, model.number):
                number = of
            if of == SHARD or of != number:
                continue
            chunk = decode_chunk(frame.payload)
            if chunk.offset != offset:
                raise SliceLost(f"slice {index} continues at entry {chunk.offset}, expected {offset}")
            records += [made for record in chunk.records if (made := as_gathered(record, index, count))]
            offset = chunk.end
        cursor = Cursor(number, frames[-1].end, frames[-1].chain, offset)
        recorded = model.slices.cursors.get(index, Cursor(0, 0, 0, 0))
        for record in records:
            end = self._journal.append(model.number, record)
            if isinstance(record, Ticks):
                model.follow(int(record.stream.max()))
            else:
                model.apply(record, end)
        self._at[index] = cursor
        now = self._clock()
        quiet = now - self._recorded.setdefault(index, now) < LAZY_S and frames[-1].end - recorded.position < LAZY_BYTES
        if number and (offset != recorded.offset or not quiet):
            self._recorded[index] = now
            self._catalog.record(model, Gathered(index, count, *cursor))


class Leader:
    """Writes the heads of the models whose home is this shard."""

    def __init__(self, store: Store, epoch: int, catalog: Catalog, journal: Journal, versions: Versions) -> None:
        """epoch: of the shard."""
        self._store, self._epoch, self._catalog = store, epoch, catalog
        self._journal, self._versions = journal, versions
        self._beat, self._writing = 0, asyncio.Lock()
        self.heads: dict[int, Head] = {}  # as last written, by model

    async def publish(self, model: ServedModel) -> None:
        """Write the head of a model if it has changed. Raises StoreUnavailable, JournalFailed."""
        async with self._writing:
            await self._publish(model)

    async def _publish(self, model: ServedModel) -> None:
        slices, former = model.slices, self.heads.get(model.number)
        head = Head(
            *model.key, model.number, slices.count, model.spec.to_stored(), model.champion,
            positions={index: cursor.position for index, cursor in slices.cursors.items()},
            judged=slices.judged(model.judged_offset), blob=former.blob if former else "",
        )  # fmt: skip
        await self._journal.flush()  # a head says nothing that another owner of the shard might not find
        if not former or former.champion != head.champion:
            head = replace(head, blob=await asyncio.to_thread(self._put, model, head.champion))
        if former is None or replace(head, epoch=former.epoch, beat=former.beat) != former:
            await self._write(model.number, head, former)

    async def delete(self, head: Head) -> None:
        """Let the slices find that a model is deleted, unless a new one has its name. Raises StoreUnavailable."""
        async with self._writing:
            if head.key not in self._catalog.by_key:
                await self._write(head.home, replace(head, deleted=True, blob=""), None)
            self.heads.pop(head.home, None)

    async def _write(self, number: int, head: Head, former: Head | None) -> None:
        self._beat += 1
        head = replace(head, epoch=self._epoch, beat=self._beat)
        await asyncio.to_thread(self._store.note, names.head(head.key), head.encode())
        self.heads[number] = head
        if former is None or former.blob != head.blob:
            await asyncio.to_thread(self._tidy, head, {head.blob, former.blob if former else ""})

    def _put(self, model: ServedModel, number: int) -> str:
        """Store a version for the slices; return the name of its blob. In a thread."""
        version, blobs = self._versions.get(model.number, number), self._versions.blobs(model.number, number)
        data = bundles.pack(version, blobs, pinned=False)
        name = names.version(model.key, model.number, number, data)
        with contextlib.suppress(Conflict):
            self._store.put(name, data)
        return name

    def _tidy(self, head: Head, keep: set[str]) -> None:
        """Delete the versions that no slice will ask for. In a thread."""
        found = [listed.name for listed in self._store.list(names.versions(head.key))]
        self._store.delete([name for name in found if name not in keep])
