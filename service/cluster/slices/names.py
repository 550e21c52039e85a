"""Where slices lie, and the names of what the store has of a model with slices.

    slices/WORD/count                          how many slices the models of this name have, for ever
    slices/WORD/head                           a note of the home: what the slices follow
    slices/WORD/start-HOME-INDEX               a note of a slice: where its first record is in its shard's journal
    slices/WORD/versions/HOME-NUMBER-SHA256    a version as one blob

WORD names tenant and model, HOME is the number of the model in its home shard.
"""

from __future__ import annotations

from hashlib import sha256

from service.common.names import ModelKey

PREFIX = "slices/"
HEAD = "/head"


def folder(key: ModelKey) -> str:
    """Return the prefix of all names of a model."""
    word = f"{key.tenant}\0{key.name}"
    return f"{PREFIX}{sha256(word.encode()).hexdigest()[:40]}"


def count(key: ModelKey) -> str:
    """Return the name of the blob with the number of slices."""
    return f"{folder(key)}/count"


def head(key: ModelKey) -> str:
    """Return the name of the head."""
    return folder(key) + HEAD


def start(key: ModelKey, home: int, index: int) -> str:
    """Return the name of a slice's note. home: number of the model that learns."""
    return f"{starts(key)}{home}-{index}"


def starts(key: ModelKey) -> str:
    """Return the prefix of the notes of all slices."""
    return f"{folder(key)}/start-"


def versions(key: ModelKey) -> str:
    """Return the prefix of the blobs of versions."""
    return f"{folder(key)}/versions/"


def version(key: ModelKey, home: int, number: int, data: bytes) -> str:
    """Return the name of the blob of a version."""
    return f"{versions(key)}{home}-{number}-{sha256(data).hexdigest()}"


def shard_of_slice(home: int, index: int, shards: int) -> int:
    """Return the shard that has a slice. home: the shard that learns."""
    return (home + 1 + index) % shards
