"""Write models into a shard of a store that no node uses: its journal from a claim on, an image of its databases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from service.cluster.moving.copying import Part, copy_databases, copy_records
from service.cluster.moving.digests import Digests, digests_of
from service.cluster.moving.source import EVERYTHING, MovingRefused, Source, reading
from service.cluster.nodes.agreed import CLUSTER, half_filled
from service.cluster.shards import images, names, opening
from service.cluster.shards.images import Manifest
from service.cluster.shards.opening import SEGMENT_BYTES, OpenedShard, Prepared
from service.cluster.shards.shared_log import SharedLog
from service.cluster.shards.tail import IMAGE, named
from service.cluster.store.seam import Store
from service.datadir.backup import STATES, VERSIONS
from service.journal.records import SHARD, Chunk, encode_chunk
from service.storage.states import States
from service.storage.versions import Versions

NOBODY = "127.0.0.1:0"  # address of an owner that never answers: the first node claims the shard over it
MOST_SHARDS = 256
SLICES = "slices/"  # prefix of what a store has of models in slices


def fill(store: Store, shard: int, parts: Sequence[Part], folder: Path) -> None:
    """Write the models of these parts into a shard without entries. folder: an empty one, for the shard's files.

    Raises Conflict if another process writes there too; StoreUnavailable, Unreachable, NoSpace, OSError.
    """
    start = max(
        part.source.start for part in parts
    )  # not 0 if the first records are gone: learning must not expect them
    log = SharedLog(folder / "journal", SEGMENT_BYTES, store, shard, (start, 0))
    try:
        opened = Prepared(store, shard, folder, log, None).claim(NOBODY, 0)
        span = copy_records(parts, log)
        copy_databases(parts, folder, span)
        _make_image(opened, start, span.needed)
    finally:
        log.close()


def _make_image(opened: OpenedShard, start: int, needed: int) -> None:
    """Store an image of the folder's databases that keeps the whole journal from `start`."""
    store, shard, log = opened.store, opened.shard, opened.log
    files = {path.name: path for path in sorted(opened.folder.glob("*.db"))}
    blocks = images.put_files(store, shard, opened.epoch, files, set())
    manifest = Manifest(shard, opened.epoch, start, 0, needed, log.end, blocks, tuple(opened.facts.claims))
    word = images.put_manifest(store, manifest)
    log.write([encode_chunk(Chunk(SHARD, 0, 1, (named(IMAGE, word, {"needed": needed}),)))])
    images.publish(store, log.end, word, manifest)


def add_databases(folder: Path) -> None:
    """Make the databases that are missing: a shard without an image has none."""
    States(folder / STATES).close()
    Versions(folder / VERSIONS).close()


@contextmanager
def read_shards(store: Store, shards: int, work: Path) -> Iterator[dict[int, Source]]:
    """Read all shards that have models, as of the ends of their journals. work: an empty folder.

    Raises as `opening.prepare` and `reading`.
    """
    with ExitStack() as stack:
        found = {}
        for shard in range(shards):
            if not store.extents(shard, 0):
                continue
            folder, copies = work / f"shard-{shard:03d}", work / f"shard-{shard:03d}-databases"
            opening.prepare(store, shard, folder).close()
            add_databases(folder)
            copies.mkdir()
            source = stack.enter_context(reading(folder, copies))
            if source.models:
                found[shard] = source
        yield found


def digests_in(store: Store, shards: int, beside: Path) -> Digests:
    """Return the digests of all models in a store. beside: a folder on the disk to use."""
    with TemporaryDirectory(prefix=".freshet-", dir=beside) as work, read_shards(store, shards, Path(work)) as found:
        return {key: digest for source in found.values() for key, digest in digests_of(source).items()}


def make_empty(store: Store, again: bool) -> None:
    """Check that a store has nothing of a cluster. again: remove what an unfinished `filling` left.

    Raises MovingRefused, StoreUnavailable.
    """
    shards = half_filled(store)
    if shards and not again:
        raise MovingRefused(
            f"{store.url}: data is being brought into it, or an earlier try ended half-way: wait for it, or give "
            "--again to remove what it left"
        )
    for shard in range(shards):
        store.trim(shard, EVERYTHING, frozenset())
        store.delete([listed.name for listed in store.list(names.folder(shard))])
    there = [listed.name for prefix in (CLUSTER, "nodes/", "shards/", SLICES) for listed in store.list(prefix)]
    there = [name for name in there if not (shards and name == CLUSTER)]
    there += [f"an entry of shard {shard}" for shard in range(MOST_SHARDS) if not there and store.extents(shard, 0)]
    if there:
        raise MovingRefused(f"{store.url}: is not empty, it has {there[0]}; give an empty store, or another prefix")
