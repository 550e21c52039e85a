"""Copy a cluster into one file while its nodes run, and bring such a file into an empty store.

Each shard is copied as a node opens it: the newest image, the journal after it up to its end, and the versions that it
names. So the file holds all that was acknowledged when the copy of a shard began. A model is on one shard: the shards
need not be of one moment. A model in slices is on several, and is refused.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from service.cluster.moving.copying import Part
from service.cluster.moving.digests import Digests, compare, digests_of
from service.cluster.moving.exporting import shards_of_cluster
from service.cluster.moving.filling import SLICES, add_databases, digests_in, fill, make_empty
from service.cluster.moving.importing import Moved
from service.cluster.moving.source import MovingRefused, Source, reading
from service.cluster.nodes.agreed import filling
from service.cluster.shards import images, opening
from service.cluster.store.seam import Missing, Store
from service.datadir.archive import ArchiveRefused, Head, OnBytes, Writer, read_head, unpack
from service.datadir.staging import staging
from service.storage.disk import sync_directory

Total = Callable[[int], OnBytes]  # given the bytes to copy, returns a callback for those copied since its last call


class Written(NamedTuple):
    """A written backup of a cluster."""

    bytes: int  # of the file
    shards: int  # that any node has used
    head: Head


def backup_cluster(store: Store, out: Path, created: float, total: Total) -> Written:
    """Write a backup of all shards to the new file `out`; durable and complete on return, else it does not exist.

    created: seconds since 1970, stored in the file. Needs room beside the file for a copy of one shard. Raises
    MovingRefused; StoreRefused, StoreLost, StoreUnavailable; NoSpace, OSError.
    """
    out = out.resolve()
    if out.exists():
        raise MovingRefused(f"{out}: exists; give another name, or remove it first")
    head = Head(int(created), 0, shards_of_cluster(store))
    with staging(out) as folder:
        whole, written = folder / out.name, 0
        on_bytes = total(sum(_size(store, shard) for shard in range(head.shards)))
        with open(whole, "xb", opener=_private) as file:
            writer = Writer(file, head)
            for shard in range(head.shards):
                if store.extents(shard, 0):
                    _add_shard(writer, store, shard, folder / f"shard-{shard:03d}", on_bytes)
                    written += 1
            writer.close()
            os.fsync(file.fileno())
        size = whole.stat().st_size
        whole.rename(out)
        sync_directory(out.parent)
    return Written(size, written, head)


def restore_cluster(archive: Path, store: Store, again: bool, total: Total) -> Moved:
    """Bring a backup into an empty store: each shard as it was, under a new claim.

    What the store has afterwards is read back and compared before a node may use it. again: remove what an unfinished
    restore has left in the store. Needs room beside the file for two copies. Raises ArchiveRefused, MovingRefused; as
    `reading`; StoreUnavailable, Unreachable.
    """
    archive = archive.resolve()
    head = read_head(archive)
    with TemporaryDirectory(prefix=".freshet-", dir=archive.parent) as temporary, ExitStack() as stack:
        work = Path(temporary)
        unpacked = work / "unpacked"
        unpacked.mkdir()
        unpack(archive, unpacked, total(archive.stat().st_size), cluster=True)
        sources: dict[int, Source] = {}
        for folder in sorted(unpacked.iterdir()):
            shard, copies = _number(archive, folder, head), work / f"{folder.name}-databases"
            copies.mkdir()
            sources[shard] = stack.enter_context(reading(folder, copies))
        make_empty(store, again)
        wanted: Digests = {}
        with filling(store, head.shards):
            for shard, source in sources.items():
                if source.models:
                    (work / f"{shard:03d}").mkdir()
                    fill(store, shard, [Part(source, {n: n for n in source.models})], work / f"{shard:03d}")
                    wanted |= digests_of(source)
            compare(wanted, digests_in(store, head.shards, archive.parent), store.url)
    used = [source for source in sources.values() if source.models]
    return Moved(wanted, sum(len(source.models) for source in used), len(used))


def _add_shard(writer: Writer, store: Store, shard: int, folder: Path, on_bytes: OnBytes) -> None:
    """Copy a shard into the folder, add its files, and remove them."""
    opening.prepare(store, shard, folder).close()
    add_databases(folder)
    if store.list(SLICES):
        _check_slices(folder)
    for path in [*sorted(folder.glob("*.db")), *sorted(folder.glob("journal/*.journal"))]:
        with path.open("rb") as source:
            writer.add(f"{folder.name}/{path.relative_to(folder)}", path.stat().st_size, source, on_bytes)
    shutil.rmtree(folder)


def _check_slices(folder: Path) -> None:
    """Raise MovingRefused if a model of the shard is in slices: each shard is copied at a moment of its own."""
    copies = folder.with_name(f"{folder.name}-databases")
    copies.mkdir()
    with reading(folder, copies):
        shutil.rmtree(copies)


def _size(store: Store, shard: int) -> int:
    """Return about how many bytes a shard has now."""
    try:
        image = images.newest(store, shard)
    except Missing:  # a live owner has made a newer one
        image = None
    files = image.manifest.files.values() if image else ()
    extents = store.extents(shard, image.manifest.begin if image else 0)
    return sum(file.size for file in files) + sum(extent.size for extent in extents)


def _number(archive: Path, folder: Path, head: Head) -> int:
    shard = int(folder.name.rpartition("-")[2])
    if shard >= head.shards:
        raise ArchiveRefused(f"{archive}: holds {folder.name}, and has {head.shards} shards. Nothing was restored")
    return shard


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
