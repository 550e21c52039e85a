"""When an image is made, what is garbage, and how much of a journal may be trimmed: decisions without I/O."""

from __future__ import annotations

from collections.abc import Iterable, Set

from service.cluster.shards import names
from service.cluster.shards.images import Image

KEPT = 2  # images: a node that opens the shard may be reading the older one
STEPS = 16  # in which as much is trimmed as is kept
TAIL_BYTES = 64 << 10  # journal after an image that the next owner replays quickly
FIRST_S = 1.0  # from a claim with a longer tail to the first image


def first_image_s(tail: int, every_s: float) -> float:
    """Return the seconds from a claim to its first image. tail: bytes of journal that the claim had to replay.

    Otherwise owners that die one after the other, each before its first image, leave a longer tail each time.
    """
    return min(FIRST_S, every_s) if tail > TAIL_BYTES else every_s


def is_image_due(now: float, last: float, every_s: float, position: int, imaged: int) -> bool:
    """Whether to make an image. now, last: seconds, of the last one; position: of the journal's end now; imaged: after
    the last image and its own record."""
    return now - last >= every_s and position > imaged


def trim_before(kept: list[Image], began: int, first_position: int, end: int, keep_bytes: int) -> int:
    """Return the offset before which entries are trimmed: what neither the kept images nor the retention need.

    kept: oldest first; with fewer than KEPT, nothing is trimmed. began, first_position: of the local journal, at the
    claim and now: what it has deleted since is not wanted in the store either. end: of the journal. keep_bytes: of
    entries, and a sixteenth more, so that few calls trim many entries.
    """
    if len(kept) < KEPT:
        return 0
    step = keep_bytes // STEPS or 1
    excess = max(0, end - keep_bytes) // step * step
    return min(max(first_position if first_position > began else 0, excess), kept[0].manifest.begin)


def garbage(found: Iterable[str], kept: Iterable[Image], versions: Set[str], epoch: int) -> list[str]:
    """Return the blobs that nothing needs, among those `found`.

    versions: blobs that the journal names and no image contains. Blobs of later epochs are another node's.
    """
    needed = set(versions)
    for image in kept:
        needed |= {image.word, *image.manifest.blobs()}
    return [word for word in found if word not in needed and names.epoch_of(word) <= epoch]
