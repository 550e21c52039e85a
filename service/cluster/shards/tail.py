"""What the records of a shard itself say, found in the entries of its journal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from typing import Any, NamedTuple

from service.cluster.store.seam import Extent, StoreLost
from service.journal.records import SHARD, Claim, Stored, chunk_head, decode_chunk
from service.journal.segments import Frame, read_frames

VERSION, PIN, OWED, IMAGE = "version", "pin", "owed", "image"  # what a Stored names
LOST = "lost"  # is never written: offered to a journal that has lost its shard, so that it fails
RETURNING = "returning"  # fact of a version whose number may be that of one that was pruned


class ClaimAt(NamedTuple):
    """A claim, and where its entry lies."""

    epoch: int
    node: str
    extent: Extent


class Named(NamedTuple):
    """A Stored record. position: after the frame that holds it."""

    position: int
    record: Stored


def fact(what: str, facts: Any) -> Stored:
    """Return a record of facts without a blob. facts: plain data for JSON."""
    text = json.dumps(facts)
    return Stored(what, "", sha256(text.encode()).digest(), text)


def named(what: str, blob: str, facts: Any) -> Stored:
    """Return a record that names a blob, whose name ends with its sha256."""
    return Stored(what, blob, bytes.fromhex(blob.rpartition("-")[2]), json.dumps(facts))


@dataclass
class Facts:
    """The claims of a shard, and what was stored for it, in order."""

    claims: list[ClaimAt]
    stored: list[Named] = field(default_factory=list)

    @property
    def newest(self) -> ClaimAt | None:
        """The last claim; None for a shard that no node has owned."""
        return self.claims[-1] if self.claims else None

    def owed_after(self, position: int) -> list[int] | None:
        """Return the models with data to erase, as last recorded after `position`; None if nothing was recorded."""
        found = [named.record.facts for named in self.stored if named.position > position and named.record.what == OWED]
        return [int(number) for number in json.loads(found[-1])] if found else None

    def versions_after(self, position: int) -> list[Named]:
        """Return the versions and pins that were named after `position`."""
        return [named for named in self.stored if named.position > position and named.record.what in (VERSION, PIN)]

    def note(self, entry: Extent, frames: Iterable[Frame]) -> None:
        """Note what the frames of an entry say. Raises StoreLost for a claim that does not follow the last one."""
        for frame in frames:
            if chunk_head(frame.payload)[0] != SHARD:
                continue
            for record in decode_chunk(frame.payload).records:
                if isinstance(record, Claim):
                    self._claimed(record, entry)
                elif isinstance(record, Stored):
                    self.stored.append(Named(frame.end, record))

    def _claimed(self, claim: Claim, entry: Extent) -> None:
        if self.newest and entry.offset <= self.newest.extent.offset:
            return  # known from an image
        before = self.newest.extent.offset if self.newest else 0
        if claim.previous != before:
            raise StoreLost(
                f"the claim of epoch {claim.epoch} at offset {entry.offset} follows one at offset {claim.previous}; "
                f"the last one found is at {before}"
            )
        self.claims.append(ClaimAt(claim.epoch, claim.node, entry))


def frames_of(shard: int, entry: Extent, data: bytes, position: int, chain: int) -> list[Frame]:
    """Return the frames of an entry from `position` on, where the chain is `chain`.

    Raises StoreLost, naming shard and offset, unless they are whole and continue the chain.
    """
    end = entry.offset + entry.size
    found = list(read_frames(BytesIO(data[position - entry.offset :]), position, chain, end))
    at = found[-1].end if found else position
    if at != end:
        raise StoreLost(
            f"shard {shard}: the entry at offset {entry.offset} does not continue the journal before it: its frame at "
            f"position {at} is not the one that was written there"
        )
    return found


def by_entry(frames: Iterable[Frame]) -> Iterator[tuple[Extent, list[Frame]]]:
    """Group frames by the commit that wrote them: each is one entry. The first frame must begin one."""
    group: list[Frame] = []
    for frame in frames:
        if frame.first and group:
            yield Extent(group[0].start, group[-1].end - group[0].start), group
            group = []
        group.append(frame)
    if group:
        yield Extent(group[0].start, group[-1].end - group[0].start), group
