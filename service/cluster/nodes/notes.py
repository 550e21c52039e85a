"""Notes of nodes in the store, and which nodes are alive: those whose notes change.

A note never decides who may write: the claims in the journals do. It only spares nodes from asking, and from claiming
what another should.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

from service.cluster.store.seam import Missing, Store

PREFIX = "nodes/"
MISSED = 3  # beats without a change after which a node counts as gone
MAX_NOTE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Note:
    """What a node writes of itself."""

    address: str  # HOST:PORT of its gRPC port, as others reach it
    http: str  # HOST:PORT of its HTTP port, as it listens
    started: float  # seconds since 1970
    beat: int  # how many notes it has written
    beat_s: float  # time between two
    owned: Mapping[int, int] = field(default_factory=dict)  # shard → epoch
    warm: tuple[int, ...] = ()  # shards whose data it has fetched to take them over
    leaving: bool = False

    def encode(self) -> bytes:
        """Return the note as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Note:
        """Return the note in these bytes. Raises ValueError for others."""
        if len(data) > MAX_NOTE_BYTES:
            raise ValueError(f"a note of {len(data)} bytes, expected at most {MAX_NOTE_BYTES}")
        try:
            values = json.loads(data)
            owned = {int(shard): int(epoch) for shard, epoch in values.pop("owned").items()}
            return cls(owned=owned, warm=tuple(map(int, values.pop("warm"))), **values)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"not the note of a node: {error}") from error


def note_name(address: str) -> str:
    """Return the name under which a node keeps its note."""
    return PREFIX + re.sub(r"[^a-z0-9._-]", "_", address.lower())


def read_notes(store: Store) -> list[Note]:
    """Return all notes in the store; those that cannot be read are left out. Raises StoreUnavailable."""
    found = []
    for listed in store.list(PREFIX):
        try:
            found.append(Note.decode(store.get(listed.name)))
        except (Missing, ValueError):  # the node has left meanwhile, or is of a later release
            continue
    return found


class Alive:
    """Which nodes are alive, judged by whether their notes change; no clock of theirs is read."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, int, float, Note]] = {}  # address → start, beat, when it changed, note

    def look(self, notes: Iterable[Note], now: float) -> dict[str, Note]:
        """Take the present notes; return those of nodes that are alive, by address. now: monotonic seconds.

        A node seen for the first time counts as alive until it has missed MISSED beats.
        """
        seen = {}
        for note in notes:
            former = self._seen.get(note.address)
            same = former is not None and former[:2] == (note.started, note.beat)
            changed = former[2] if same and former is not None else now
            seen[note.address] = note.started, note.beat, changed, note
        self._seen = seen
        return {
            address: note
            for address, (_, _, changed, note) in seen.items()
            if now - changed <= MISSED * note.beat_s and not (note.leaving and not note.owned)
        }
