"""The local files of a shard: a cache of the store, compared with it when the shard is opened."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import structlog

from service.cluster.shards import names
from service.cluster.shards.images import AT_ONCE, BLOCK_BYTES, FileBlocks, Manifest, fetch_block
from service.cluster.shards.shared_log import SharedLog
from service.cluster.store.seam import Extent, Store, StoreLost, StoreRefused
from service.journal.segments import JournalDamaged
from service.storage.directory import OWED_FILE
from service.storage.disk import needing_space

log = structlog.get_logger("shards")

MARK = "shard.json"  # in the folder: whose cache it is
DATABASES = ("states.db", "versions.db", "trainer*.db")
BESIDE = ("-wal", "-shm", "-journal")  # files of SQLite


def own(folder: Path, url: str, shard: int) -> None:
    """Make the folder the cache of a shard; what it held of another one is thrown away.

    Raises StoreRefused for a data directory that is no cache, OSError.
    """
    folder.mkdir(0o700, parents=True, exist_ok=True)
    mark = {"store": url, "shard": shard}
    try:
        found = json.loads((folder / MARK).read_text())
    except FileNotFoundError:
        if (folder / "journal").exists():
            raise StoreRefused(
                f"{folder}: is a data directory of its own, not a copy of shard {shard} of {url}: give another one, or "
                "freshet store import it"
            ) from None
        found = None
    except ValueError:
        found = None
    if found != mark:
        if found:
            log.warning("a copy of another shard was removed", folder=str(folder), found=found, shard=shard, store=url)
        drop_databases(folder, ())
        drop_journal(folder)
        (folder / MARK).write_text(json.dumps(mark))


def drop_journal(folder: Path) -> None:
    """Remove the local journal."""
    shutil.rmtree(folder / "journal", ignore_errors=True)


def drop_databases(folder: Path, keep: Iterable[str]) -> None:
    """Remove the databases but those named `keep`, and what belongs to them."""
    for path in [path for pattern in DATABASES for path in folder.glob(pattern)]:
        if path.name not in keep:
            _unlink(path, "", *BESIDE)
    if OWED_FILE not in keep:
        _unlink(folder / OWED_FILE, "")


def fetch(store: Store, manifest: Manifest | None, folder: Path) -> int:
    """Make the databases in a folder those of an image, or remove all if there is none; return the bytes read.

    Blocks that the folder has are not read. Raises Missing for a blob that is gone, StoreLost, NoSpace, OSError.
    """
    files = manifest.files if manifest else {}
    drop_databases(folder, files)
    if manifest is None:
        return 0
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch") as pool:
        return sum(_fetch_file(store, manifest.shard, folder / name, its, pool) for name, its in files.items())


def _fetch_file(store: Store, shard: int, path: Path, file: FileBlocks, pool: ThreadPoolExecutor) -> int:
    """Make one file as in the image; return the bytes read. A kill leaves it in part, which the next try mends."""
    _unlink(path, *BESIDE)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with needing_space(str(path)):
            os.ftruncate(fd, file.size)
        read = pool.map(partial(_fetch_block, store, shard, fd), range(len(file.blocks)), file.blocks)
        return sum(read)
    finally:
        os.close(fd)


def _fetch_block(store: Store, shard: int, fd: int, index: int, word: str) -> int:
    """Write one block unless it is there; return the bytes read from the store."""
    at = index * BLOCK_BYTES
    if names.holds(word, os.pread(fd, BLOCK_BYTES, at)):
        return 0
    data = fetch_block(store, shard, word)
    with needing_space(f"block {index}"):
        os.pwrite(fd, data, at)
    return len(data)


def _unlink(path: Path, *endings: str) -> None:
    for ending in endings:
        path.with_name(path.name + ending).unlink(missing_ok=True)


# ---- the journal


def open_log(
    store: Store,
    shard: int,
    folder: Path,
    segment_bytes: int,
    start: tuple[int, int],
    extents: Sequence[Extent],
    erased: int = 0,
) -> SharedLog:
    """Open the local journal if it agrees with the store, else one that begins at `start`.

    extents: the store's entries from `start` on. erased: position before which nothing may be kept. A local journal was
    written after the store had acknowledged it: one that has more than the store, or something else, proves a loss.
    Raises StoreLost then, and changes nothing.
    """
    arguments = folder / "journal", segment_bytes, store, shard, start
    try:
        local = SharedLog(*arguments)
    except JournalDamaged as error:  # by a power failure: the cache is not synced
        log.warning("the local journal is damaged, and read from the store instead", shard=shard, why=str(error))
        drop_journal(folder)
        return SharedLog(*arguments)
    try:
        if _continues(local, start, extents) and local.start >= erased:
            return local
    except BaseException:
        local.close()
        raise
    local.close()
    drop_journal(folder)
    return SharedLog(*arguments)


def _continues(local: SharedLog, start: tuple[int, int], extents: Sequence[Extent]) -> bool:
    """Whether the local journal reaches from `start` to where the store can continue it. Raises StoreLost."""
    begin, chain = start
    end = extents[-1].offset + extents[-1].size if extents else begin
    if local.end > end:
        raise _lost(local, f"it ends at offset {end}, and the copy on this node at {local.end}")
    common = [e for e in extents if e.offset >= local.start and e.offset + e.size <= local.end]
    if common:
        [theirs] = local.store.read(local.shard, common[-1:])
        if local.raw(common[-1]) != theirs:
            raise _lost(local, f"its entry at offset {common[-1].offset} is not the one in the copy on this node")
    ends = {begin, *(e.offset + e.size for e in extents)}
    if local.start > begin or local.end not in ends:  # also where a crash left a part of an entry
        return False
    if local.chain_at(begin) != chain:
        raise _lost(local, f"the chain of its journal at offset {begin} is not that of the copy on this node")
    return True


def _lost(local: SharedLog, what: str) -> StoreLost:
    return StoreLost(
        f"shard {local.shard}: the store has lost entries that it acknowledged: {what} ({local.directory}). Nothing "
        "was changed: restore the store from a copy, or give the entries up by removing that folder"
    )
