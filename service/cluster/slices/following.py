"""The slices' side: a model as its home's head says, made when its first stream is opened."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import replace

import structlog

from model.spec import ModelSpec
from service.cluster.shards import bundles
from service.cluster.shards.names import holds
from service.cluster.slices import names
from service.cluster.slices.head import Head, Start, read_head, read_start, write_start
from service.cluster.store.seam import Missing, Store, StoreUnavailable
from service.common.errors import NotFound, Unavailable
from service.common.names import ModelKey
from service.engine.export import Canary
from service.engine.session import StepSession
from service.journal.records import ModelChange, ModelCreate, Slice, Swap
from service.server.components import Components
from service.storage.versions import Blobs, Version
from service.streams.served import ServedModel

log = structlog.get_logger("slices")

AGAIN_S = 0.2  # after which a caller may ask again for a slice whose home has written nothing yet


class Follower:
    """Keeps the slices of one shard at their heads."""

    def __init__(
        self, store: Store, shard: int, shards: int, components: Components, start: Callable[[], Start]
    ) -> None:
        """shards: of the cluster; start: returns where the shard's journal ends, a boundary of its entries."""
        self._store, self._shard, self._shards = store, shard, shards
        self._parts, self._start = components, start
        self._catalog, self._journal = components.serving.catalog, components.journal
        self._heads: dict[int, tuple[int, int]] = {}  # by slice: epoch and beat of the head that it follows
        self._needed: dict[int, int] = {}  # by slice: its home has read the journal up to there
        self._making = asyncio.Lock()
        self._catalog.on_removed.append(self._removed)

    def needed(self) -> int | None:
        """Return the position from which on some home needs the shard's journal; None: no home does. Thread-safe."""
        slices = [number for number, model in [*self._catalog.models.items()] if model.slices.part]
        known = dict(self._needed)
        return min([*(known.get(number, 0) for number in slices), *known.values()], default=None)

    # ---- making

    async def ensure(self, key: ModelKey, index: int) -> None:
        """Make a slice, unless it exists. Raises Unavailable, NotFound."""
        try:
            await asyncio.shield(self._ensure(key, index))  # from a caller that leaves
        except (StoreUnavailable, Missing) as error:
            raise Unavailable("store", str(error), "try again once it answers", retry_s=1.0) from error

    async def _ensure(self, key: ModelKey, index: int) -> None:
        async with self._making:
            if key in self._catalog.by_key:
                return
            head = await asyncio.to_thread(read_head, self._store, key)
            if head is None:
                raise Unavailable("model", key.name, "its slices are being made: try again", retry_s=AGAIN_S)
            if head.deleted:
                raise NotFound("model", key.name, "no such model; create it first, or list the models")
            self._parts.serving.admission.check_disk()
            number = self._catalog.next_number()
            try:
                await self._make(number, head, index)
            except BaseException:
                self._needed.pop(number, None)
                with contextlib.suppress(StoreUnavailable):
                    await asyncio.to_thread(self._store.delete, [names.start(key, head.home, index)])
                raise
            finally:
                self._catalog.coming.discard(number)
            await self._journal.flush()

    async def _make(self, number: int, head: Head, index: int) -> None:
        """Note where the slice begins, then, without awaiting, journal its first records. They are not on disk yet on
        return."""
        start = self._start()
        self._needed[number] = start.position
        await asyncio.to_thread(write_start, self._store, head.key, head.home, index, start)
        spec = ModelSpec.from_stored(dict(head.spec))
        model = ServedModel(number, head.tenant, head.name, spec)
        digest, session = await asyncio.to_thread(self._add, model, head)
        self._journal.append(number, ModelCreate(head.tenant, head.name, json.dumps(spec.to_stored())))
        self._catalog.record(model, Slice(index, head.count, head.home))
        self._catalog.record(model, Swap(head.champion, 0, digest))
        self._parts.engine.offer(number, head.champion, session)
        self._catalog.add(model)
        self._report(model)
        log.info("a slice begins", model=head.name, slice=index, of=head.count, version=head.champion)

    async def forget_begun(self, head: Head, home: int) -> None:
        """Remove the notes of a model's slices in this shard that are not there: their owner was killed when they were
        made, or after their deletion. home: the model's shard. Raises StoreUnavailable."""
        async with self._making:
            here = [n for n in range(head.count) if names.shard_of_slice(home, n, self._shards) == self._shard]
            model = self._catalog.by_key.get(head.key)
            for index in here:
                found = await asyncio.to_thread(self._store.list, names.starts(head.key))
                mine = model.slices.part if model else None
                kept = names.start(head.key, mine.home, index) if mine else ""
                gone = [each.name for each in found if each.name.endswith(f"-{index}") and each.name != kept]
                await asyncio.to_thread(self._store.delete, gone)

    # ---- following

    async def step(self, model: ServedModel) -> None:
        """Bring one slice to its head. Raises StoreUnavailable, JournalFailed, BadVersion, ServiceError."""
        part, head = model.slices.part, await asyncio.to_thread(read_head, self._store, model.key)
        if part is None or head is None or model.deleted or head.home < part.home:
            return
        beat = head.epoch, head.beat
        if beat < self._heads.get(model.number, beat):
            return  # of a former owner of the home, that is late
        self._heads[model.number] = beat
        if head.deleted or head.home != part.home:
            await self._parts.control.delete(model.key)
            note = names.start(model.key, part.home, part.index)
            await asyncio.to_thread(self._store.delete, [note])  # last: a new model of the name may be made from now on
            return
        if dict(head.spec) != model.spec.to_stored():
            self._catalog.record(model, ModelChange(json.dumps(dict(head.spec))))
        if head.champion != model.champion:
            await self._adopt(model, head, head.judged.get(part.index, 0))
        else:
            self._judged(model, head.judged.get(part.index, 0), in_service=False)
        if part.index in head.positions:
            self._needed[model.number] = head.positions[part.index]
        elif model.number not in self._needed:
            start = await asyncio.to_thread(read_start, self._store, model.key, head.home, part.index)
            self._needed[model.number] = start.position if start else 0

    async def _adopt(self, model: ServedModel, head: Head, judged: int) -> None:
        """Put the head's version into service."""
        try:
            digest, session = await asyncio.to_thread(self._add, model, head)
        except Missing:  # a later head names another one
            return
        if model.deleted:  # meanwhile, and its versions with it
            await asyncio.to_thread(self._parts.versions.drop, model.number)
            return
        self._catalog.record(model, Swap(head.champion, judged, digest))
        self._parts.engine.replace(model.number, head.champion, session)
        self._judged(model, judged, in_service=True)
        self._report(model)

    def _judged(self, model: ServedModel, offset: int, *, in_service: bool) -> None:
        """Note how many of the slice's entries are judged. in_service: by a version that serves since now."""
        if in_service or offset > model.judged_offset:
            self._parts.publishing.freshness.judged(model, offset, in_service=in_service)
            model.judge(offset)
            model.owners.judged()

    def _report(self, model: ServedModel) -> None:
        self._catalog.report_versions(model)
        self._parts.metrics.serving.of(model.key).published.set(self._parts.shared.wall())

    def _add(self, model: ServedModel, head: Head) -> tuple[bytes, StepSession]:
        """Fetch, check and store a version under its number. In a thread. Raises Missing, BadVersion."""
        version, blobs = self._fetch(head)
        session, _ = self._parts.engine.prepare(blobs.onnx, Canary.unpack(blobs.canary))
        here = replace(version, model=model.number)
        self._parts.versions.add(here, *blobs, returning=True)
        return bytes.fromhex(version.digest), session

    def _fetch(self, head: Head) -> tuple[Version, Blobs]:
        data = self._store.get(head.blob)
        if not holds(head.blob, data):
            raise bundles.BundleRefused(f"{head.blob}: not the bytes that its name promises")
        version, blobs, _ = bundles.unpack(data)
        return version, blobs

    def _removed(self, model: int) -> None:
        self._heads.pop(model, None)
        self._needed.pop(model, None)
