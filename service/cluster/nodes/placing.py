"""Which shard has a model, and which node should own a shard: functions of names alone, the same on every node."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from hashlib import sha256

from service.common.names import ModelKey


def shard_of(key: ModelKey, shards: int) -> int:
    """Return the shard that has a model, 0 .. shards - 1."""
    return int.from_bytes(sha256(f"{key.tenant}\0{key.name}".encode()).digest()[:8]) % shards


def beside(key: ModelKey, other: ModelKey, shards: int) -> str:
    """Return "" if both models have one shard, else a name like that of `key` for a model in the other's shard."""
    wanted = shard_of(other, shards)
    if shard_of(key, shards) == wanted:
        return ""
    names = (f"{key.name[:58]}-{n}" for n in itertools.count(2))
    return next(name for name in names if shard_of(ModelKey(key.tenant, name), shards) == wanted)


def preferred(shard: int, nodes: Collection[str]) -> str:
    """Return the address of the node that should own the shard; "" without nodes.

    Rendezvous hashing: a node that joins or leaves moves only the shards that it gets or had.
    """
    return max(nodes, key=lambda node: (sha256(f"{shard}\0{node}".encode()).digest(), node), default="")


def health_name(shard: int) -> str:
    """Return the name by which grpc.health.v1 reports a shard."""
    return f"freshet.shard.{shard:03d}"
