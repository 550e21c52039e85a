"""Find out whether a store keeps its promises, before anything is trusted to it.

Three products broke the condition of a create in 2026, so that several writers won. The probe writes under numbers that
no shard has, from several threads at once, and deletes what it has written.
"""

from __future__ import annotations

import math
import random
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from service.cluster.store.patience import Call, Metered, repeat
from service.cluster.store.seam import Conflict, Extent, Missing, Store, StoreRefused

# Rounds and writers at the start of a node. SeaweedFS lets a writer that finds another one writing wait a second, so
# that a race of eight takes it up to seven; `freshet store check` takes that time.
SHORT = (1, 3)
CLAIMS = 5  # one round in this many has a race for a claim
MEASURED_BYTES = 4096  # of an entry and a blob whose time is measured
FIRST_SHARD, SHARDS = 1_000, 1 << 20  # numbers of shards of which a probe takes one at random
GIVE_UP_S = 10.0  # of one call
REMEDY = "nodes that share this store could lose what they acknowledge: update it, or use another store"

T = TypeVar("T")


class Latency(NamedTuple):
    """How long the calls of one operation took."""

    operation: str
    calls: int
    p50_s: float
    p99_s: float


@dataclass(slots=True)
class Found:
    """What a probe has seen of a store that passed."""

    races: int = 0  # each had one winner
    stale: int = 0  # appends of former owners, all refused
    seen: int = 0  # acknowledged writes that were looked for and found
    durations: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # s, by operation

    def latencies(self) -> list[Latency]:
        """Return the median and 99th percentile of each operation of one writer alone."""
        return [
            Latency(operation, len(s), _rank(s, 0.5), _rank(s, 0.99))
            for operation, s in ((name, sorted(seconds)) for name, seconds in sorted(self.durations.items()))
        ]


def steps(rounds: int) -> int:
    """Return how often a probe of this many rounds advances."""
    return 2 * rounds + rounds // CLAIMS


def probe(
    store: Store,
    size: tuple[int, int] = SHORT,
    other: Store | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Found:
    """Probe a store and return what was seen. Raises StoreRefused, which names the broken promise, or StoreUnavailable.

    size: rounds and writers: these threads race for an append in each round, and in some for a claim; as many appends
    by one writer alone are measured. other: a second handle on the same store, through which writes are looked for; the
    same one without it. advance: called `steps` times. Epochs come from the clock, so that they are above those of an
    earlier probe.
    """
    rounds, writers = size
    found = Found()
    work = _Probe(store, other or store, found, advance)
    try:
        with ThreadPoolExecutor(writers, "probe") as threads:
            work.race_for_entries(threads, rounds, writers)
            work.race_for_claims(threads, rounds // CLAIMS, writers)
        work.fence()
        work.blobs()
        work.measure(rounds)
    finally:
        work.clean()
    return found


class _Probe:
    """The checks, in the order of `probe`, on entries from offset 0 of one shard."""

    def __init__(self, store: Store, other: Store, found: Found, advance: Callable[[], None]) -> None:
        self._store, self._other, self._found, self._advance = store, other, found, advance
        self._shard = FIRST_SHARD + random.SystemRandom().randrange(SHARDS)
        self._epoch = time.time_ns() // 1_000_000
        self._tail = 0
        self._claims: set[int] = set()
        self._blob = f"probe/{secrets.token_hex(8)}"

    def race_for_entries(self, threads: ThreadPoolExecutor, races: int, writers: int) -> None:
        """One of several appends at an offset wins, and its bytes are there."""
        self._claim()
        for _ in range(races):
            self._race(threads, writers, "append", self._store.append)

    def race_for_claims(self, threads: ThreadPoolExecutor, races: int, writers: int) -> None:
        """One of several claims at an offset wins."""
        for _ in range(races):
            self._epoch += 1
            self._claims.add(self._tail)
            self._race(threads, writers, "claim", self._store.claim)

    def fence(self) -> None:
        """A claim stops the former owner, also when everything before the claim has been trimmed."""
        at, former = self._tail, self._epoch
        last = secrets.token_bytes(8)
        self._call(lambda: self._store.append(self._shard, at, former, last))
        self._call(lambda: self._store.append(self._shard, at, former, last))  # a writer whose answer was lost
        self._tail = at + len(last)
        claimed = self._tail
        self._epoch += 1
        self._claim()
        for trimmed in (False, True):
            if trimmed:
                self._call(lambda: self._store.trim(self._shard, claimed, self._claims))
            if self._accepted(lambda: self._store.append(self._shard, claimed, former, secrets.token_bytes(8))):
                self._refuse("fence", "an append of a former owner was accepted after the claim of its successor")
            self._found.stale += 1
        self._see(claimed, None)

    def blobs(self) -> None:
        """A blob and a note are seen at once, by name and in a listing; a blob never changes, a note does."""
        self._call(lambda: self._store.put(self._blob, b"blob"))
        if self._accepted(lambda: self._store.put(self._blob, b"else")):
            self._refuse("conditional create", "a blob was overwritten")
        self._expect_blob(self._blob, b"blob")
        for content in (b"note 1", b"note 2"):
            self._call(lambda content=content: self._store.note(f"{self._blob}.note", content))  # type: ignore[misc]
            self._expect_blob(f"{self._blob}.note", content)

    def measure(self, rounds: int) -> None:
        """One writer alone: each write is seen as soon as it is acknowledged, and timed."""

        def called(call: Call) -> None:
            self._found.durations[call.operation].append(call.seconds)

        alone, data = Metered(self._store, called), secrets.token_bytes(MEASURED_BYTES)
        for n in range(rounds):
            at, name = self._tail, f"{self._blob}.{n}"
            self._call(lambda at=at: alone.append(self._shard, at, self._epoch, data))  # type: ignore[misc]
            self._tail += len(data)
            self._see(at, data)
            self._call(lambda name=name: alone.put(name, data))  # type: ignore[misc]
            self._call(lambda name=name: alone.get(name))  # type: ignore[misc]
            self._call(lambda: alone.list(self._blob))
            self._expect_blob(name, data)
            self._advance()

    def clean(self) -> None:
        """Delete what the probe wrote."""
        self._call(lambda: self._store.trim(self._shard, self._tail + 1, frozenset()))
        written = [listed.name for listed in self._call(lambda: self._store.list(self._blob))]
        self._call(lambda: self._store.delete(written))

    def _claim(self) -> None:
        data, at = secrets.token_bytes(16), self._tail
        self._call(lambda: self._store.claim(self._shard, at, self._epoch, data))
        self._claims.add(at)
        self._see(at, data)
        self._tail += len(data)

    def _race(
        self, threads: ThreadPoolExecutor, writers: int, name: str, write: Callable[[int, int, int, bytes], None]
    ) -> None:
        """Let all threads write different bytes of one length at the tail, at once. Raises StoreRefused."""
        at, together = self._tail, threading.Barrier(writers)
        data = [secrets.token_bytes(32) for _ in range(writers)]

        def run(mine: bytes) -> bool:
            together.wait(GIVE_UP_S)
            return self._accepted(lambda: write(self._shard, at, self._epoch, mine))

        won = [mine for mine, accepted in zip(data, threads.map(run, data), strict=True) if accepted]
        if len(won) != 1:
            self._refuse("conditional create", f"{len(won)} of {writers} writers that raced to {name} were confirmed")
        self._see(at, won[0])
        self._tail += 32
        self._found.races += 1
        self._advance()

    def _see(self, offset: int, data: bytes | None) -> None:
        """Look for an entry that was acknowledged. data: its bytes; None for those of the winner."""
        extents = self._call(lambda: self._other.extents(self._shard, offset))
        if not extents or extents[0].offset != offset:
            self._refuse("listing", f"an acknowledged entry is not listed; {_numbers(extents)} are")
        (seen,) = self._call(lambda: list(self._other.read(self._shard, extents[:1])))
        if data is not None and seen != data:
            self._refuse("conditional create", "an acknowledged entry has other bytes than those acknowledged")
        self._found.seen += 1

    def _expect_blob(self, name: str, data: bytes) -> None:
        try:
            seen = self._call(lambda: self._other.get(name))
        except Missing:
            self._refuse("reading", "an acknowledged blob is missing")
        if seen != data:
            self._refuse("reading", "a read returned other bytes than those that were acknowledged last")
        if name not in {listed.name for listed in self._call(lambda: self._other.list(self._blob))}:
            self._refuse("listing", "an acknowledged blob is not listed")
        self._found.seen += 1

    def _accepted(self, write: Callable[[], None]) -> bool:
        try:
            self._call(write)
        except Conflict:
            return False
        return True

    def _call(self, call: Callable[[], T]) -> T:
        return repeat(call, threading.Event().wait, GIVE_UP_S)

    def _refuse(self, promise: str, seen: str) -> None:
        raise StoreRefused(f"{self._store.url}: {promise} does not hold: {seen}; {REMEDY}")


def _rank(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _numbers(extents: Sequence[Extent]) -> str:
    return f"{len(extents)} entries after it" if extents else "none"
