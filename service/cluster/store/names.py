"""Names in a store: those of blobs and notes, which callers choose, and those of entries, which are offsets."""

from __future__ import annotations

import re
from collections.abc import Iterable

from service.cluster.store.seam import Extent

JOURNAL = "journal"  # first word of the names of entries; no blob or note begins with it
LONGEST = 200  # characters of a name
_NAME = re.compile(r"(?!journal(/|$))[a-z0-9_-][a-z0-9._-]*(/[a-z0-9_-][a-z0-9._-]*)*")


def checked(name: str) -> str:
    """Return the name of a blob or note. Raises ValueError if no backend may have it."""
    if len(name) > LONGEST or not _NAME.fullmatch(name):
        raise ValueError(f"name = {name!r}: use words of a-z, 0-9, '.', '_', '-' joined by '/', not beginning with '.'")
    return name


def folder_of(prefix: str) -> str:
    """Return the part of a prefix that names a folder, without the last slash; empty for the root."""
    return prefix.rpartition("/")[0]


def entries_of(shard: int) -> str:
    """Return the folder of a shard's entries."""
    return f"{JOURNAL}/{shard:03d}"


def entry_name(offset: int) -> str:
    """Return the last word of an entry's name. By name is by offset."""
    return f"{offset:020d}"


def extents_in(sizes: Iterable[tuple[str, int]], start: int) -> list[Extent]:
    """Return the entries among the last words and sizes of names that lie at `start` or later, in order."""
    return sorted(Extent(int(word), size) for word, size in sizes if word.isdecimal() and int(word) >= start)
