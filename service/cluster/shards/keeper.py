"""The periodic work on a shard that this node owns: images, trimming, garbage, and a check that nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from service.cluster.shards import images, names
from service.cluster.shards.decisions import KEPT, first_image_s, garbage, is_image_due, trim_before
from service.cluster.shards.images import Image, Manifest
from service.cluster.shards.ledger import check_whole, missing
from service.cluster.shards.opening import OpenedShard
from service.cluster.shards.owner import drop_old_hints, read_claim
from service.cluster.shards.tail import IMAGE, LOST, OWED, ClaimAt, fact, named
from service.cluster.shards.versions import SharedVersions
from service.cluster.store.seam import Conflict, Missing, StoreLost, StoreUnavailable
from service.common.errors import Unavailable
from service.datadir.backup import BackupRefused, copy_database, databases
from service.datadir.staging import staging
from service.journal.records import SHARD, Stored
from service.journal.writer import Journal, JournalFailed
from service.storage.directory import OWED_FILE
from service.storage.disk import NoSpace, Unreachable

log = structlog.get_logger("shards")

T = TypeVar("T")

KEEP_BYTES = 4 << 30
# What `make_image` raises, and a snapshot before it.
NO_IMAGE = (BackupRefused, Conflict, JournalFailed, NoSpace, OSError, StoreLost, sqlite3.Error)


class Keeper:
    """Keeps one shard's copy in the store. For the event loop; what blocks runs in threads.

    image: the newest image, None before the first.
    """

    def __init__(
        self,
        opened: OpenedShard,
        journal: Journal,
        versions: SharedVersions,
        image_s: float,
        keep_bytes: int = KEEP_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """image_s: time between two images, and between two checks of the store; keep_bytes: of the journal's entries,
        kept at most beside what images need; clock: monotonic seconds."""
        self._opened, self._journal, self._versions = opened, journal, versions
        self._store, self._shard, self._log = opened.store, opened.shard, opened.log
        self._image_s, self._keep_bytes, self._clock = image_s, keep_bytes, clock
        self._began = journal.first_position
        self.learned: Callable[[], int] = lambda: 1 << 63  # the position through which every trainer has saved
        self.save: Callable[[], Awaitable[None]] = _nothing  # saves the streams: what is saved is not replayed
        self._kept: list[Image] = [opened.image] if opened.image else []  # oldest first
        self._imaged = 0  # position after the last image and its own record
        self._first_s = first_image_s(opened.log.end - (opened.image.manifest.needed if opened.image else 0), image_s)
        self._last = clock() - image_s + self._first_s
        self._scrubbed, self._trimmed = opened.log.ledger.begin, 0
        self._erased = opened.image.manifest.erased if opened.image else 0
        self._working = asyncio.Lock()
        # Position from which another shard reads the journal in the store; None: no other does. Any thread may call.
        self.needed: Callable[[], int | None] = lambda: None

    @property
    def image(self) -> Image | None:
        """The newest image; None before the first."""
        return self._kept[-1] if self._kept else None

    async def run(self) -> None:
        """Work until cancelled. Raises StoreLost and Conflict: nothing of the shard is acknowledged from then on."""
        pause_s = self._first_s
        while True:
            await asyncio.sleep(pause_s)
            pause_s = self._image_s
            try:
                await self.step()
            except (BackupRefused, NoSpace) as error:
                log.warning("no image of a shard", shard=self._shard, why=str(error))

    async def step(self) -> None:
        """Check the store, and make an image if one is due.

        Raises StoreLost, Conflict, Unreachable, NoSpace, JournalFailed.
        """
        await self.scrub()
        end = self._journal.durable_position
        if is_image_due(self._clock(), self._last, self._image_s, end, self._imaged):
            await self.make_image()

    async def make_image(self) -> Image:
        """Save the streams, make an image, then remove what only older ones needed.

        Raises Unreachable, NoSpace, StoreLost; JournalFailed once another node owns the shard.
        """
        async with self._working:
            self._last = self._clock()
            await self.save()
            image = await self._make()
            self._imaged = self._journal.durable_position
            await self._call(self._tidy, KEPT, self._journal.first_position)
            return image

    async def scrub(self) -> None:
        """Compare what the store lists with what it has acknowledged since the last scrub. Raises StoreLost, and
        Conflict if another node owns the shard."""
        async with self._working:
            await self._call(self._scrub)

    # ---- erasing: see `service.serving.erasure.Elsewhere`

    async def owe(self, models: Sequence[int]) -> None:
        """Record in the journal of which models data must be erased. Durable on return. Raises NoSpace."""
        await self._record(fact(OWED, list(models)))

    async def erase(self, position: int) -> None:
        """Erase in the store all that is before this position: only a new image is kept, and the journal after it.

        Raises Unavailable, NoSpace.
        """
        async with self._working:
            await self._call(self._scrub)
            needed = self.needed()
            if needed is not None and needed < position:
                why = f"another shard reads the journal from {needed}"
                raise Unavailable("store", why, "it is asked again", retry_s=1.0)
            self._erased = position
            image = await self._make()
            if image.manifest.begin < position:
                why = f"an image still needs the journal from {image.manifest.begin}"
                raise Unavailable("store", why, "it is asked again", retry_s=5.0)
            await self._call(self._tidy, 1, self._journal.first_position)

    # ---- images

    async def _make(self) -> Image:
        seen, first = self._journal.durable_position, self._journal.first_position
        word, manifest = await self._call(self._put, seen, first, self.learned())
        await self._record(named(IMAGE, word, {"needed": manifest.needed}))
        image: Image = await self._call(images.publish, self._store, self._journal.durable_position, word, manifest)
        self._kept.append(image)
        return image

    def _put(self, seen: int, first: int, learned: int) -> tuple[str, Manifest]:
        """Store the blocks and the manifest of an image. In a thread.

        seen: durable position before it. learned: the position through which every trainer had saved before it; one
        that has no file yet needs the journal from its start.
        """
        opened, data = self._opened, self._opened.folder
        known = self.image.manifest.blobs() if self.image else set()
        with staging(data / "image") as folder:
            with databases(data) as found:
                for name, connection in found.connections.items():
                    copy_database(data / name, connection, folder / name)
                needed = max(min([learned, *found.positions.values()]), first, self._log.ledger.begin)
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(data / OWED_FILE, folder / OWED_FILE)
            files = {path.name: path for path in sorted(folder.iterdir())}
            blocks = images.put_files(self._store, self._shard, opened.epoch, files, known)
        begin, chain = self._log.ledger.boundary(needed)
        claims = tuple(opened.facts.claims)
        manifest = Manifest(self._shard, opened.epoch, begin, chain, needed, seen, blocks, claims, self._erased)
        return images.put_manifest(self._store, manifest), manifest

    def _tidy(self, keep: int, first: int) -> None:
        """Remove all images but the newest `keep`, then what nothing needs any more. In a thread."""
        store, shard = self._store, self._shard
        self._kept = self._known(keep)
        kept = {image.offset for image in self._kept}
        old = [offset for offset in images.offsets(store, shard) if offset not in kept and offset < max(kept)]
        store.delete([names.image_name(shard, offset) for offset in old])
        versions = self._versions.needed_after(self._kept[0].manifest.seen)
        found = {listed.name.rpartition("/")[2] for listed in store.list(names.blobs(shard))}
        for image in self._kept:
            if lacking := {image.word, *image.manifest.blobs()} - found:
                raise StoreLost(f"shard {shard}: the blob {min(lacking)} is gone, which the newest images need")
        unneeded = garbage(found, self._kept, versions, self._opened.epoch)
        store.delete([names.blobs(shard) + word for word in unneeded])
        before = self._kept[0].manifest.begin
        if keep > 1:
            before = trim_before(self._kept, self._began, first, self._log.end, self._keep_bytes)
        drop_old_hints(store, shard, self._opened.epoch)
        if (needed := self.needed()) is not None:
            before = min(before, needed)
        self._scrubbed = max(self._scrubbed, before)
        trimmed = 0
        if before > self._trimmed:  # it lists what it trims
            trimmed = store.trim(shard, before, {claim.extent.offset for claim in self._opened.facts.claims})
            self._trimmed = before
        self._log.ledger.forget_before(min(self._kept[0].manifest.begin, self._scrubbed))
        log.info("image", shard=shard, offset=self._kept[-1].offset, garbage=len(unneeded), trimmed=trimmed)

    def _known(self, keep: int) -> list[Image]:
        """Return the newest images, with those of former owners."""
        known = {image.offset: image for image in self._kept}
        newest = max(known)
        found = [offset for offset in images.offsets(self._store, self._shard) if offset <= newest]
        kept: list[Image] = []
        for offset in found[-keep:]:
            try:
                kept.append(known.get(offset) or images.load(self._store, self._shard, offset))
            except Missing:  # a former owner pointed to it after it had lost the shard
                continue
        return kept

    # ---- scrubbing

    def _scrub(self) -> None:
        """Compare the store's entries since the last scrub with those that it acknowledged. In a thread."""
        start, acknowledged = self._scrubbed, self._log.ledger.extents(self._scrubbed)
        listed = self._store.extents(self._shard, start)
        for error in missing(self._shard, acknowledged, listed):
            raise error
        end = start + sum(extent.size for extent in acknowledged)
        # What is appended meanwhile may be listed in part: a listing is not of one moment.
        check_whole(self._shard, [extent for extent in listed if extent.offset < end], start)
        if listed and listed[-1].offset >= end and (successor := self._successor()):
            raise self._succeeded(successor)  # also where nothing is written, so that no append conflicts
        self._scrubbed = end

    def _successor(self) -> ClaimAt | None:
        """Return the claim of the node that owns the shard after this one; None if this one still does. A successor
        deletes what it does not need, which is no loss."""
        extents = self._store.extents(self._shard, self._log.ledger.end)
        first = read_claim(self._store, self._shard, extents[0]) if extents else None
        return first if first and first.epoch > self._opened.epoch else None

    # ---- the store and the journal

    async def _record(self, record: Stored) -> None:
        """Append a record of the shard; durable on return. Raises NoSpace, JournalFailed."""
        self._journal.append(SHARD, record)
        await self._journal.flush(unless_full=True)
        if self._journal.no_space:
            raise self._journal.no_space

    async def _call(self, work: Callable[..., T], *arguments: object) -> T:
        """Run in a thread. Raises Unreachable while the store does not answer; StoreLost, Conflict: nothing is
        acknowledged from then on."""
        try:
            return await asyncio.to_thread(self._guarded, work, *arguments)
        except StoreUnavailable as error:
            raise Unreachable(str(error)) from error
        except (StoreLost, Conflict) as error:
            if self._log.lost:  # the journal fails of it now, not at the next tick: all calls end
                with contextlib.suppress(NoSpace, JournalFailed):
                    await self._record(fact(LOST, str(error)))
            raise

    def _guarded(self, work: Callable[..., T], *arguments: object) -> T:
        try:
            return work(*arguments)
        except StoreLost as error:
            lost: StoreLost | Conflict = error
            if successor := self._successor():
                lost = self._succeeded(successor)
            self._log.lost = lost
            log.critical("a shard is lost", shard=self._shard, why=str(lost))
            raise lost from error

    def _succeeded(self, successor: ClaimAt) -> Conflict:
        """Note that the shard is another node's; return the error."""
        self._log.lost = Conflict(f"shard {self._shard}: claimed by {successor.node} in epoch {successor.epoch}")
        return self._log.lost


async def _nothing() -> None:
    pass
