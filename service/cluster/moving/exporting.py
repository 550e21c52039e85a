"""Make data directories of plain servers from a store: of one shard, or of all of them in one."""

from __future__ import annotations

import shutil
from pathlib import Path

from service.cluster.moving.copying import copy_databases, copy_records, numbered
from service.cluster.moving.digests import Digests, compare, digests_of
from service.cluster.moving.filling import add_databases, read_shards
from service.cluster.moving.importing import Moved
from service.cluster.moving.living import refuse_living
from service.cluster.moving.source import MovingRefused, reading
from service.cluster.nodes.agreed import shards_in
from service.cluster.shards import opening
from service.cluster.shards.opening import SEGMENT_BYTES
from service.cluster.store.seam import Missing, Store
from service.datadir.staging import staging
from service.journal.log import LOCK_NAME, SegmentLog
from service.storage.disk import sync_directory, sync_file


def export_directory(store: Store, data: Path, shard: int | None = None) -> Moved:
    """Make the data directory `data`, which must be empty or missing, whole on return, else unchanged.

    shard: only this one, whose journal stays byte for byte; None: the models of all shards, with new numbers. The store
    stays as it is. The result is read back and compared. Raises MovingRefused, also while a node is at work; as
    `reading`; StoreRefused, StoreLost, StoreUnavailable.
    """
    data = data.resolve()
    if data.exists() and any(data.iterdir()):
        raise MovingRefused(f"{data}: is not empty; give a new directory, or move its content away")
    shards = shards_of_cluster(store)
    if shard is not None and not 0 <= shard < shards:
        raise MovingRefused(f"shard = {shard}: the cluster has the shards 0 to {shards - 1}")
    refuse_living(store, shards)
    with staging(data) as folder:
        made, work = folder / "made", folder / "work"
        work.mkdir()
        if shard is None:
            found, wanted = _merged(store, shards, made, work)
        else:
            opening.export(store, shard, made)
            add_databases(made)
            found, wanted = 1, {}
        copies = work / "copies"
        copies.mkdir()
        with reading(made, copies) as source:
            digests = digests_of(source)
            if shard is None:
                compare(wanted, digests, str(data))
            models = len(source.models)
        _finish(made, data)
    return Moved(digests, models, found)


def shards_of_cluster(store: Store) -> int:
    """Return the number of shards. Raises MovingRefused if no node has used the store; StoreRefused."""
    try:
        return shards_in(store)
    except Missing:
        raise MovingRefused(f"{store.url}: holds no cluster; give the URL of freshet serve --store") from None


def _merged(store: Store, shards: int, made: Path, work: Path) -> tuple[int, Digests]:
    """Make one directory of all shards; return how many have models, and the digests of all models."""
    made.mkdir(0o700)
    with read_shards(store, shards, work) as found:
        sources = list(found.values())
        parts = numbered([(source, list(source.models)) for source in sources])
        start = max((source.start for source in sources), default=0)
        log = SegmentLog(made / "journal", SEGMENT_BYTES, (start, 0))
        try:
            span = copy_records(parts, log)
        finally:
            log.close()
        copy_databases(parts, made, span)
        wanted: Digests = {}
        for source in sources:
            wanted |= digests_of(source)
        return len(found), wanted


def _finish(made: Path, data: Path) -> None:
    """Make the directory durable and give it its name."""
    for leftover in (made / "journal" / LOCK_NAME, *made.glob("*.db-*"), *made.glob("*.lock")):
        leftover.unlink(missing_ok=True)
    for path in [*made.rglob("*"), made]:
        sync_file(path)
    if data.exists():
        data.rmdir()
    shutil.move(made, data)
    sync_directory(data.parent)
