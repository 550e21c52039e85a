"""Read the journal of another shard in the store: entries of one slice, as its home journals them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from service.cluster.shards.ledger import check_whole
from service.cluster.shards.tail import frames_of
from service.cluster.store.seam import Store, StoreLost
from service.journal.records import (
    U32_MAX,
    Label,
    ModelCreate,
    Record,
    Reset,
    Slice,
    StateDelete,
    StatePut,
    Ticks,
    decode_chunk,
)
from service.journal.segments import Frame

READ_BYTES = 1 << 20  # of a journal at once, but at least one entry


class SliceLost(RuntimeError):
    """Entries of a slice are missing, or cannot be learned. Nothing after them is learned."""


def read_after(store: Store, shard: int, position: int, chain: int) -> list[Frame]:
    """Return the next frames of a shard's journal after `position`, where the chain is `chain`; verified.

    Raises SliceLost if they are gone or damaged; StoreUnavailable.
    """
    extents = store.extents(shard, position)
    n = size = 0
    while n < len(extents) and (not n or size + extents[n].size <= READ_BYTES):
        size += extents[n].size
        n += 1
    found: list[Frame] = []
    try:
        check_whole(shard, extents[:n], position)
        for entry, data in zip(extents[:n], store.read(shard, extents[:n]), strict=True):
            found += frames_of(shard, entry, data, entry.offset, found[-1].chain if found else chain)
    except StoreLost as error:
        raise SliceLost(f"after position {position}: {error}") from error
    return found


def is_slice(payload: bytes, tenant: str, name: str, index: int, home: int) -> bool:
    """Whether a chunk begins this slice of a model."""
    match decode_chunk(payload).records[:2]:
        case (ModelCreate() as made, Slice() as part):
            return (made.tenant, made.name, part.index, part.home) == (tenant, name, index, home)
    return False


def as_gathered(record: Record, index: int, count: int) -> Record | None:
    """Return a record of a slice as the home learns it, its streams under numbers of their own; None for one that
    learning does not need. Raises SliceLost for a stream number that is too large."""
    match record:
        case Ticks():
            streams = record.stream.astype(np.uint64) * np.uint64(count) + np.uint64(index)
            _check(int(streams.max()))
            return replace(record, stream=streams.astype(np.uint32))
        case Label() | Reset() | StateDelete() | StatePut():
            return replace(record, stream=_check(record.stream * count + index))
    return None


def _check(stream: int) -> int:
    if stream > U32_MAX:
        raise SliceLost(f"stream {stream} of all slices: more than {U32_MAX} streams were ever opened")
    return stream
