"""When an image is made, what is garbage, and how much of a journal may be trimmed: decisions without I/O."""

from __future__ import annotations

from collections.abc import Iterable, Set

from service.cluster.shards import names
from service.cluster.shards.images import Image

KEPT = 2  # images: a node that opens the shard may be reading the older one


def is_image_due(now: float, last: float, every_s: float, position: int, imaged: int) -> bool:
    """Whether to make an image. now, last: seconds, of the last one; position: of the journal's end now; imaged: after
    the last image and its own record."""
    return now - last >= every_s and position > imaged


def trim_before(kept: list[Image], first_position: int) -> int:
    """Return the offset before which entries may be trimmed: those that neither the kept images nor the local journal
    need. kept: oldest first; with fewer than KEPT, nothing is trimmed."""
    return min(first_position, kept[0].manifest.begin) if len(kept) >= KEPT else 0


def garbage(found: Iterable[str], kept: Iterable[Image], versions: Set[str], epoch: int) -> list[str]:
    """Return the blobs that nothing needs, among those `found`.

    versions: blobs that the journal names and no image contains. Blobs of later epochs are another node's.
    """
    needed = set(versions)
    for image in kept:
        needed |= {image.word, *image.manifest.blobs()}
    return [word for word in found if word not in needed and names.epoch_of(word) <= epoch]
