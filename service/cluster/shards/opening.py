"""Open a shard on this node: a local folder as of the store's end, then a claim. Everything here blocks.

Opening is restoring a backup: the databases of the newest image, the journal that they need, and the versions that it
names. Afterwards the folder is a plain data directory, and recovery runs on it as on any other.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import structlog

from service.cluster.shards import bundles, cache, images, owner
from service.cluster.shards.images import Image
from service.cluster.shards.ledger import check_whole
from service.cluster.shards.shared_log import SharedLog
from service.cluster.shards.tail import PIN, RETURNING, ClaimAt, Facts, by_entry, frames_of
from service.cluster.store.seam import Conflict, Extent, Missing, Store, StoreLost, StoreUnavailable
from service.journal.records import SHARD, Chunk, Claim, encode_chunk
from service.journal.segments import encode_commit
from service.journal.writer import Journal
from service.storage.directory import OWED_FILE
from service.storage.disk import needing_space, sync_file
from service.storage.versions import VersionMissing, Versions

log = structlog.get_logger("shards")

TRIES = 10  # while a live owner makes images and trims, or others claim
OFFERS = 3  # of one claim to a store that does not answer
SEGMENT_BYTES = 64 << 20


class Claimed(RuntimeError):
    """Another claimant has claimed the shard meanwhile."""

    def __init__(self, shard: int, by: str, epoch: int) -> None:
        """by: address of the node."""
        super().__init__(f"shard {shard}: claimed by {by} in epoch {epoch}")
        self.shard, self.by, self.epoch = shard, by, epoch


class Stale(RuntimeError):
    """The store does not continue the journal of a folder: trimmed or lost. Begin from a newer image."""


@dataclass
class OpenedShard:
    """A shard that this node owns. log: to be given to a Journal, which closes it."""

    store: Store
    shard: int
    node: str
    folder: Path
    log: SharedLog
    epoch: int
    image: Image | None  # the newest one
    facts: Facts

    def journal(self, commit_s: float) -> Journal:
        """Return the shard's journal, whose pace follows the store. commit_s: its shortest, in seconds."""
        journal = Journal(self.log)
        self.log.pace(journal, commit_s)
        return journal


class Prepared:
    """A local folder that follows the store without owning the shard."""

    def __init__(self, store: Store, shard: int, folder: Path, log: SharedLog, image: Image | None) -> None:
        """Take ownership of `log`. Use `prepare`."""
        self.store, self.shard, self.folder, self.log, self.image = store, shard, folder, log, image
        self.facts = Facts(list(image.manifest.claims) if image else [])
        self._adopted = image.manifest.seen if image else 0
        self._nonce = secrets.randbits(64)  # of its claims
        for entry, frames in by_entry(log.frames(log.ledger.begin)):
            log.ledger.add(frames[-1].end, frames[-1].chain)
            self.facts.note(entry, frames)

    @property
    def epoch(self) -> int:
        """The newest epoch that was read; 0 for a shard that no node has owned."""
        return self.facts.newest.epoch if self.facts.newest else 0

    def catch_up(self) -> None:
        """Read what the store has after the local journal. Raises Stale, StoreUnavailable, NoSpace."""
        try:
            extents = list_entries(self.store, self.shard, self.log.end)
            for entry, data in zip(extents, self.store.read(self.shard, extents), strict=True):
                frames = frames_of(self.shard, entry, data, self.log.end, self.log.chain)
                self._follow(entry, data, frames[-1].chain)
                self.facts.note(entry, frames)
            self._adopt()
        except StoreLost as error:  # or a live owner has removed what only older images need
            raise Stale(str(error)) from error

    def claim(self, node: str, over: int | None = None) -> OpenedShard:
        """Own the shard. node: the address of this node. over: the newest epoch whose owner is known to be gone or to
        hand over; None: that of the last claim read so far.

        Raises Claimed if another claimant has a newer claim, be it one with this address: a process before this one, or
        a second one by mistake; Stale: prepare it again; StoreUnavailable, NoSpace.
        """
        over = self.epoch if over is None else over
        above = 0  # tries without a change: the store may know an epoch that no entry has
        for _ in range(TRIES):
            before = self.log.end
            self.catch_up()
            newest = self.facts.newest
            if newest and newest.epoch > over:
                raise Claimed(self.shard, newest.node, newest.epoch)
            above = above + 1 if self.log.end == before else 1
            if claim := self._offer(node, self.epoch + above):
                return self._opened(claim)
        raise StoreUnavailable(f"{self.store.url}: shard {self.shard} could not be claimed in {TRIES} tries")

    def close(self) -> None:
        """Close the local journal."""
        self.log.close()

    def _offer(self, node: str, epoch: int) -> ClaimAt | None:
        """Append a claim; return it if it is the journal's last entry, else None. Raises Stale."""
        previous = self.facts.newest.extent.offset if self.facts.newest else 0
        chunk = Chunk(SHARD, 0, 1, (Claim(epoch, node, previous, self._nonce),))
        frames, chain = encode_commit([encode_chunk(chunk)], self.log.chain)
        entry = Extent(self.log.end, len(frames))
        try:
            again(lambda: self.store.claim(self.shard, entry.offset, epoch, frames))
        except Conflict:
            return None
        # A live owner may have trimmed what was at this offset while this node slept: then later entries are there.
        if list_entries(self.store, self.shard, entry.offset) != [entry]:
            return None
        self._follow(entry, frames, chain)
        claim = ClaimAt(epoch, node, entry)
        self.facts.claims.append(claim)
        return claim

    def _newest_image(self) -> Image | None:
        """Return the newest image now. The one that the folder began from may be an old one, whose blocks are gone."""
        found = images.offsets(self.store, self.shard)
        if not found or (self.image and found[-1] == self.image.offset):
            return self.image
        try:
            return images.load(self.store, self.shard, found[-1])
        except Missing:  # removed meanwhile by a former owner: the next image shares no blocks
            return None

    def _follow(self, entry: Extent, data: bytes, chain: int) -> None:
        self.log.follow(data[self.log.end - entry.offset :], chain)
        self.log.ledger.add(self.log.end, chain)

    def _adopt(self) -> None:
        """Bring the versions, pins and debts that the journal names into the folder."""
        found = self.facts.versions_after(self._adopted)
        if found:
            with closing(Versions(self.folder / "versions.db")) as versions:
                for position, record in found:
                    if record.what == PIN:
                        with contextlib.suppress(VersionMissing):  # pruned since
                            versions.pin(**json.loads(record.facts))
                    else:
                        data = images.read_named(self.store, self.shard, record.blob, position)
                        _add(versions, data, returning=RETURNING in json.loads(record.facts))
        if (owed := self.facts.owed_after(self._adopted)) is not None:
            _write_owed(self.folder / OWED_FILE, owed)
        self._adopted = self.log.end

    def _opened(self, claim: ClaimAt) -> OpenedShard:
        self.log.epoch = claim.epoch
        owner.hint(self.store, self.shard, claim)
        log.info("claimed", shard=self.shard, epoch=claim.epoch, offset=claim.extent.offset)
        image = self._newest_image()
        args = self.store, self.shard, claim.node, self.folder, self.log, claim.epoch, image, self.facts
        return OpenedShard(*args)


def prepare(store: Store, shard: int, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> Prepared:
    """Bring a folder to the store's end without claiming the shard; what the folder has already is not read again.

    Raises StoreLost, naming shard and offset, if the store lacks something that it acknowledged; StoreRefused for a
    folder with other data; StoreUnavailable; JournalLocked, NoSpace, OSError.
    """
    cache.own(folder, store.url, shard)
    lost: Exception | None = None
    last: int | None = None
    for _ in range(TRIES):
        found = images.offsets(store, shard)
        newest = found[-1] if found else None
        if lost and newest == last:
            break
        last = newest
        try:
            image = images.load(store, shard, found[-1]) if found else None
            return _from_image(store, shard, folder, segment_bytes, image)
        except (Missing, Stale, StoreLost) as error:
            lost = error  # unless a live owner has made a newer image, and removed what this one needs
    raise StoreLost(str(lost)) from lost


def open_shard(
    store: Store, shard: int, folder: Path, node: str, over: int | None = None, segment_bytes: int = SEGMENT_BYTES
) -> OpenedShard:
    """Open and claim a shard: `prepare`, then `Prepared.claim`. Raises as both, but Stale."""
    for _ in range(TRIES):
        prepared = prepare(store, shard, folder, segment_bytes)
        over = prepared.epoch if over is None else over
        try:
            return prepared.claim(node, over)
        except Stale:
            prepared.close()
        except BaseException:
            prepared.close()
            raise
    raise StoreUnavailable(f"{store.url}: shard {shard} was trimmed faster than it could be read")


def _from_image(store: Store, shard: int, folder: Path, segment_bytes: int, image: Image | None) -> Prepared:
    start = (image.manifest.begin, image.manifest.chain) if image else (0, 0)
    extents = list_entries(store, shard, start[0])
    erased = image.manifest.erased if image else 0
    local = cache.open_log(store, shard, folder, segment_bytes, start, extents, erased)
    try:
        cache.fetch(store, image.manifest if image else None, folder)
        prepared = Prepared(store, shard, folder, local, image)
        prepared.catch_up()
    except BaseException:
        local.close()
        raise
    return prepared


def export(store: Store, shard: int, folder: Path) -> None:
    """Make a new folder the data directory of a plain server, as of the store's end; durable on return.

    Raises as `prepare`.
    """
    prepare(store, shard, folder).close()
    (folder / cache.MARK).unlink()
    for path in [*folder.rglob("*"), folder]:
        sync_file(path)


def list_entries(store: Store, shard: int, start: int) -> list[Extent]:
    """Return the entries from offset `start` on. Raises Stale for a gap, also if they do not begin there."""
    gap: StoreLost | None = None
    for _ in range(OFFERS):  # a listing that is not of one moment may miss an entry that was added meanwhile
        found = store.extents(shard, start)
        try:
            check_whole(shard, found, start)
        except StoreLost as error:
            gap = error
        else:
            return found
    raise Stale(str(gap))


def again(call: Callable[[], None]) -> None:
    """Call the store, again a few times while it does not answer. Raises StoreUnavailable."""
    for left in reversed(range(OFFERS)):
        try:
            call()
            return
        except StoreUnavailable:
            if not left:
                raise


def _add(versions: Versions, data: bytes, returning: bool) -> None:
    """Add a version to the folder, unless it was there before."""
    version, blobs, pinned = bundles.unpack(data)
    if returning or version.number > versions.last_number(version.model):
        versions.add(version, *blobs, pinned=pinned, returning=returning)
    elif pinned:
        with contextlib.suppress(VersionMissing):
            versions.pin(version.model, version.number)


def _write_owed(path: Path, owed: Sequence[int]) -> None:
    if not owed:
        path.unlink(missing_ok=True)
        return
    with needing_space(str(path)):
        path.write_text(json.dumps(list(owed)))
