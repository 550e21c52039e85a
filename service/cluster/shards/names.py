"""Names of a shard's blobs, and what can be read from a name alone.

    shards/NNN/blobs/EPOCH-SHA256            a block of an image, a manifest, or a version
    shards/NNN/images/OFFSET                 names the manifest of the image made at this position
    shards/NNN/claims/EPOCH-OFFSET-SIZE      a hint where the entry of a claim lies

Numbers are padded with zeros, so that names sort as numbers do.
"""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from service.cluster.store.seam import Extent


class ClaimHint(NamedTuple):
    """Where the entry of a claim should lie, as its name says."""

    epoch: int
    extent: Extent


def folder(shard: int) -> str:
    """Return the prefix of all names of a shard."""
    return f"shards/{shard:03d}/"


def blobs(shard: int) -> str:
    """Return the prefix of the shard's blobs."""
    return f"{folder(shard)}blobs/"


def images(shard: int) -> str:
    """Return the prefix of the pointers to images."""
    return f"{folder(shard)}images/"


def claims(shard: int) -> str:
    """Return the prefix of the hints of claims."""
    return f"{folder(shard)}claims/"


def blob_word(epoch: int, data: bytes) -> str:
    """Return the name, among the shard's blobs, of one that is written in an epoch."""
    return f"{epoch:010d}-{sha256(data).hexdigest()}"


def epoch_of(word: str) -> int:
    """Return the epoch in which a blob of this name was written. Raises ValueError for a foreign name."""
    return int(word.partition("-")[0])


def holds(word: str, data: bytes) -> bool:
    """Whether these are the bytes that the name of a blob, which ends with their sha256, promises."""
    return word.rpartition("-")[2] == sha256(data).hexdigest()


def image_name(shard: int, offset: int) -> str:
    """Return the name of the pointer to the image made at a position."""
    return f"{images(shard)}{offset:020d}"


def claim_name(shard: int, epoch: int, extent: Extent) -> str:
    """Return the name of the hint of a claim."""
    return f"{claims(shard)}{epoch:010d}-{extent.offset:020d}-{extent.size}"


def claim_hint(name: str) -> ClaimHint | None:
    """Return what the name of a hint says; None for a foreign name."""
    parts = name.rpartition("/")[2].split("-")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        return None
    epoch, offset, size = map(int, parts)
    return ClaimHint(epoch, Extent(offset, size))
