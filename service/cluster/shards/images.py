"""Images of a shard's databases in the store: a manifest names blocks of files, and a pointer names the manifest.

A block is one blob, also if several images have it. Everything that an image names is stored before its pointer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from service.cluster.shards import names
from service.cluster.shards.tail import ClaimAt
from service.cluster.store.seam import Extent, Missing, Store, StoreLost

FORMAT = 1
BLOCK_BYTES = 256 << 10
AT_ONCE = 8  # blocks that are read or written at the same time


@dataclass(frozen=True, slots=True)
class FileBlocks:
    """A file of an image. blocks: names of blobs of BLOCK_BYTES, the last one shorter."""

    size: int
    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image: files, and the journal that its owner needs besides."""

    shard: int
    epoch: int  # in which it was made
    begin: int  # offset of the first entry that is needed
    chain: int  # of the journal, there
    needed: int  # position from which the databases continue
    seen: int  # position up to which versions, pins and debts that the journal names are in the files
    files: Mapping[str, FileBlocks]
    claims: tuple[ClaimAt, ...]  # all before the image
    erased: int = 0  # position of the last erasing: a copy of the journal before it must not be kept

    def blobs(self) -> set[str]:
        """Return the names of its blocks."""
        return {word for file in self.files.values() for word in file.blocks}

    def encode(self) -> bytes:
        """Return its bytes: JSON."""
        claims = [[claim.epoch, claim.node, *claim.extent] for claim in self.claims]
        return json.dumps({"format": FORMAT, **asdict(self), "claims": claims}, sort_keys=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Return the manifest in these bytes. Raises ValueError for another format."""
        facts: dict[str, Any] = json.loads(data)
        if (found := facts.pop("format")) != FORMAT:
            raise ValueError(f"an image in format {found}, this version of freshet reads format {FORMAT}")
        claims = tuple(ClaimAt(epoch, node, Extent(*extent)) for epoch, node, *extent in facts.pop("claims"))
        files = {name: FileBlocks(its["size"], tuple(its["blocks"])) for name, its in facts.pop("files").items()}
        return cls(**facts, files=files, claims=claims)


class Image(NamedTuple):
    """An image in the store."""

    offset: int  # in the name of its pointer
    word: str  # name of its manifest
    manifest: Manifest


def offsets(store: Store, shard: int) -> list[int]:
    """Return the offsets of the images that there are, oldest first."""
    return [int(listed.name.rpartition("/")[2]) for listed in store.list(names.images(shard))]


def load(store: Store, shard: int, offset: int) -> Image:
    """Return an image. Raises Missing if it is gone, StoreLost if it is not as it was written."""
    word = store.get(names.image_name(shard, offset)).decode()
    data = _checked(shard, word, store.get(names.blobs(shard) + word))
    return Image(offset, word, Manifest.decode(data))


def newest(store: Store, shard: int) -> Image | None:
    """Return the newest image; None if there is none. Raises as `load`."""
    found = offsets(store, shard)
    return load(store, shard, found[-1]) if found else None


def put_files(
    store: Store, shard: int, epoch: int, files: Mapping[str, Path], known: set[str]
) -> dict[str, FileBlocks]:
    """Store the blocks of files that the `known` blobs do not have; return where they are."""
    by_digest = {word.partition("-")[2]: word for word in known}

    def put(data: bytes) -> str:
        word = by_digest.get(sha256(data).hexdigest())
        if word is None:
            word = names.blob_word(epoch, data)
            store.put(names.blobs(shard) + word, data)
        return word

    found = {}
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="image") as pool:
        for name, path in files.items():
            size, blocks = path.stat().st_size, list[str]()
            with path.open("rb") as file:
                for _ in range(0, size, BLOCK_BYTES * AT_ONCE):  # bounds the memory
                    data = [block for _ in range(AT_ONCE) if (block := file.read(BLOCK_BYTES))]
                    blocks += pool.map(put, data)
            found[name] = FileBlocks(size, tuple(blocks))
    return found


def put_manifest(store: Store, manifest: Manifest) -> str:
    """Store a manifest, whose blocks are stored; return the name of its blob."""
    data = manifest.encode()
    word = names.blob_word(manifest.epoch, data)
    store.put(names.blobs(manifest.shard) + word, data)
    return word


def publish(store: Store, offset: int, word: str, manifest: Manifest) -> Image:
    """Point to an image whose manifest is stored and named in the journal; it is found from here on."""
    store.put(names.image_name(manifest.shard, offset), word.encode())
    return Image(offset, word, manifest)


def fetch_block(store: Store, shard: int, word: str) -> bytes:
    """Return a blob of the shard, verified by its name. Raises Missing, StoreLost."""
    return _checked(shard, word, store.get(names.blobs(shard) + word))


def _checked(shard: int, word: str, data: bytes) -> bytes:
    if not names.holds(word, data):
        raise StoreLost(f"shard {shard}: the blob {word} has other bytes than those that were stored")
    return data


def read_named(store: Store, shard: int, word: str, offset: int) -> bytes:
    """Return a blob that the journal names at `offset`. Raises StoreLost if it is gone or not as it was stored."""
    try:
        return fetch_block(store, shard, word)
    except Missing as error:
        raise StoreLost(f"shard {shard}: the blob {word} is gone, which the entry at offset {offset} names") from error
