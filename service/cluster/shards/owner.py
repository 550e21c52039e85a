"""Which node owns a shard: that of the newest claim in its journal. Hints of claims save reading the journal."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from service.cluster.shards import names
from service.cluster.shards.tail import ClaimAt
from service.cluster.store.seam import Extent, Store, StoreLost, StoreUnavailable
from service.journal.records import SHARD, Claim, RecordError, decode_chunk
from service.journal.segments import FRAME

CLAIM_BYTES = 1024  # the entry of a claim is smaller: an address has at most 255 characters
KEPT_HINTS = 8


class Owner(NamedTuple):
    """The node that claimed a shard last."""

    address: str
    epoch: int
    offset: int  # of the entry of its claim


def owner_of(store: Store, shard: int) -> Owner | None:
    """Return the owner of a shard; None for a shard that was never claimed.

    A claim whose hint is missing, because its node died before it served, may not be found: then the owner before it
    is returned, and a claim over that one finds the newer one. Raises StoreUnavailable, StoreLost.
    """
    hints = filter(None, (names.claim_hint(listed.name) for listed in store.list(names.claims(shard))))
    for hint in sorted(hints, reverse=True):
        with contextlib.suppress(StoreLost):
            if (found := read_claim(store, shard, hint.extent)) and found.epoch == hint.epoch:
                return Owner(found.node, found.epoch, found.extent.offset)
    small = [extent for extent in store.extents(shard, 0) if extent.size < CLAIM_BYTES]
    for extent in reversed(small):
        if found := read_claim(store, shard, extent):
            return Owner(found.node, found.epoch, found.extent.offset)
    return None


def read_claim(store: Store, shard: int, extent: Extent) -> ClaimAt | None:
    """Return the claim in an entry; None for an entry of another kind. Raises StoreLost if it is gone."""
    [data] = store.read(shard, [extent])
    try:
        chunk = decode_chunk(data[FRAME.size :])
    except RecordError:  # an entry of several frames
        return None
    first = chunk.records[0]
    if chunk.model != SHARD or not isinstance(first, Claim):
        return None
    return ClaimAt(first.epoch, first.node, extent)


def hint(store: Store, shard: int, claim: ClaimAt) -> None:
    """Leave a hint of a claim. An unreachable store is no error: without a hint, finding the owner takes longer."""
    with contextlib.suppress(StoreUnavailable):
        store.put(names.claim_name(shard, claim.epoch, claim.extent), claim.node.encode())


def drop_old_hints(store: Store, shard: int, epoch: int) -> None:
    """Remove all but the newest hints. epoch: the present one."""
    found = [listed.name for listed in store.list(names.claims(shard))]
    store.delete([name for name in found if (at := names.claim_hint(name)) and at.epoch <= epoch - KEPT_HINTS])
