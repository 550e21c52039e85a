"""The log of a shard's journal: a commit is in the store before it is in the local segment, which is a cache.

An entry of the store is exactly the bytes that the local journal has at its position.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from service.cluster.shards.ledger import Ledger
from service.cluster.store.seam import Conflict, Extent, Store, StoreLost, StoreUnavailable
from service.journal.log import SegmentLog
from service.journal.segments import Frame, encode_commit
from service.journal.writer import Commit, Journal
from service.storage.disk import Unreachable

RECENT = 64  # appends whose times set the pace
SLOWEST_S = 1.0  # pace of the slowest store


class SharedLog(SegmentLog):
    """Writes the commits of one epoch. Until it is `opened_as` the owner's, it only follows the store.

    ledger: the entries of the store that the local journal has.
    """

    def __init__(
        self,
        directory: Path,
        segment_bytes: int,
        store: Store,
        shard: int,
        start: tuple[int, int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the local journal, or make one that begins at `start`: an entry's offset, and the chain there.

        Raises as `SegmentLog`.
        """
        super().__init__(directory, segment_bytes, start)
        self.directory = directory
        self.store, self.shard, self.epoch = store, shard, 0
        self.ledger = Ledger(shard, *start)
        self.lost: StoreLost | Conflict | None = None  # set: nothing is written any more
        self._clock = clock
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._unsure: bytes | None = None  # an entry that the store may have

    def write(self, payloads: Sequence[bytes]) -> int:
        """Append one commit; it is durable in the store on return. Returns `end`.

        Raises Unreachable while the store does not answer, and NoSpace for a full local disk: the same commit must be
        written again. Raises Conflict once another node owns the shard, StoreLost, OSError: `write` must not be called
        again.
        """
        if self.lost:
            raise self.lost
        if not self.epoch:
            raise RuntimeError(f"shard {self.shard}: not claimed")
        frames, chain = encode_commit(payloads, self.chain)
        if self._unsure not in (None, frames):
            raise RuntimeError(f"shard {self.shard}: the entry at offset {self.end} was offered with other bytes")
        self._append(frames)
        self.put(frames, chain)
        self._unsure = None
        self.ledger.add(self.end, chain)
        return self.end

    def stages_quickly(self, size: int) -> bool:
        """Return False: a commit goes to the store first, and `write` waits for it."""
        return False

    def _append(self, frames: bytes) -> None:
        """Append the entry to the store. Raises as `write`."""
        self._unsure = frames
        started = self._clock()
        try:
            self.store.append(self.shard, self.end, self.epoch, frames)
        except StoreUnavailable as error:
            raise Unreachable(str(error)) from error
        except (Conflict, StoreLost) as error:
            self.lost = error
            raise
        self._seconds.append(self._clock() - started)

    def follow(self, frames: bytes, chain: int) -> None:
        """Add bytes that were read from the store and verified. Raises NoSpace, OSError."""
        self.put(frames, chain)

    def frames(self, position: int) -> Iterator[Frame]:
        """Yield the local frames from `position` on. Raises JournalDamaged, also if no frame begins there."""
        while position < self.end:
            segment, stop = self._segment_at(position, self.end)
            yield from segment.frames(position, self._chain_at(segment, position), stop)
            position = stop

    def chain_at(self, position: int) -> int:
        """Return the chain at a position of the local journal. Raises JournalDamaged if no frame begins or ends
        there."""
        if position == self.end:
            return self.chain
        segment, _ = self._segment_at(position, self.end)
        return self._chain_at(segment, position)

    def raw(self, entry: Extent) -> bytes:
        """Return the local bytes of an entry."""
        segment, _ = self._segment_at(entry.offset, self.end)
        with segment.open() as file:
            file.seek(segment.file_offset(entry.offset))
            return file.read(entry.size)

    def recent(self) -> list[float]:
        """Return the seconds of recent appends to the store."""
        return list(self._seconds)

    def pace(self, journal: Journal, commit_s: float) -> None:
        """Let the pace of the journal follow this store from now on. commit_s: the shortest, in seconds."""

        def committed(_: Commit) -> None:
            journal.pace_s = pace_s(self.recent(), commit_s)

        journal.pace_s = commit_s
        journal.on_commit.append(committed)


def pace_s(recent: Sequence[float], commit_s: float, slowest_s: float = SLOWEST_S) -> float:
    """Return the shortest time between the starts of two commits, in seconds: the median of recent appends to the
    store, but never below `commit_s`, and never above `slowest_s` unless that is below `commit_s`."""
    median = statistics.median(recent) if recent else 0.0
    return max(commit_s, min(median, slowest_s))
