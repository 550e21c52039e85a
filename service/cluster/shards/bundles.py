"""A version as one blob: its facts as JSON in the first line, then its files."""

from __future__ import annotations

import json
from dataclasses import asdict

from service.storage.versions import Blobs, Version

FORMAT = 1


class BundleRefused(ValueError):
    """The bytes are no version of this format. The text says what they are."""


def pack(version: Version, blobs: Blobs, pinned: bool) -> bytes:
    """Return the bytes of a version."""
    head = {"format": FORMAT, "pinned": pinned, "sizes": [len(data) for data in blobs], "facts": asdict(version)}
    return b"".join((json.dumps(head, sort_keys=True).encode(), b"\n", *blobs))


def unpack(data: bytes) -> tuple[Version, Blobs, bool]:
    """Return a version, its files, and whether it is pinned. Raises BundleRefused."""
    line, _, rest = data.partition(b"\n")
    try:
        head = json.loads(line)
        if head["format"] != FORMAT:
            raise BundleRefused(f"a version in format {head['format']}, this one reads format {FORMAT}")
        sizes, facts, pinned = head["sizes"], head["facts"], bool(head["pinned"])
        version = Version(**facts)
    except (ValueError, TypeError, KeyError) as error:
        raise BundleRefused(f"no version: {error}") from error
    if len(sizes) != len(Blobs._fields) or sum(sizes) != len(rest):
        raise BundleRefused(f"files of {sizes} bytes, and {len(rest)} are there")
    first, second = sizes[0], sizes[0] + sizes[1]
    return version, Blobs(rest[:first], rest[first:second], rest[second:]), pinned
