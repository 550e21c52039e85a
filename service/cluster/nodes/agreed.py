"""What all nodes of a cluster agree on: the number of shards, which the first one decides, in a blob of the store."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from service.cluster.store.seam import Conflict, Missing, Store, StoreRefused

CLUSTER = "cluster"
FORMAT = 1
FILLING = "filling"  # the only key while data is brought into a store


def shards_of(store: Store, wanted: int) -> int:
    """Return the number of shards of the cluster; the first node decides it. Raises StoreRefused, StoreUnavailable."""
    try:
        return shards_in(store)
    except Missing:
        pass
    try:
        store.put(CLUSTER, _encoded(wanted))
    except Conflict:  # another node was first
        return shards_in(store)
    return wanted


def shards_in(store: Store) -> int:
    """Return the number of shards of an existing cluster.

    Raises Missing if no node has used the store; StoreRefused while data is brought into it, or for another format.
    """
    facts: dict[str, Any] = json.loads(store.get(CLUSTER))
    if FILLING in facts:
        raise StoreRefused(
            f"{store.url}: data is being brought into it, or an earlier try ended half-way: wait for it, or bring the "
            "data in again with --again"
        )
    if facts.get("format") != FORMAT:
        raise StoreRefused(
            f"{store.url}: a cluster in format {facts.get('format')}, this version of freshet reads format {FORMAT}: "
            "start the version that made it"
        )
    return int(facts["shards"])


def half_filled(store: Store) -> int:
    """Return the number of shards that an unfinished `filling` may have written to; 0 if there is none."""
    try:
        facts: dict[str, Any] = json.loads(store.get(CLUSTER))
    except Missing:
        return 0
    return int(facts.get(FILLING, 0))


@contextlib.contextmanager
def filling(store: Store, shards: int) -> Iterator[None]:
    """Refuse nodes while the block brings data into a store, and from then on if it fails. Raises StoreUnavailable."""
    store.note(CLUSTER, json.dumps({FILLING: shards}).encode())
    yield
    store.note(CLUSTER, _encoded(shards))


def _encoded(shards: int) -> bytes:
    return json.dumps({"format": FORMAT, "shards": shards}).encode()
