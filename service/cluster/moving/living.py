"""Is a node of a cluster at work? Asked of the nodes' notes and of the owners' ports, without credentials."""

from __future__ import annotations

import socket
import time

from service.cluster.moving.filling import NOBODY
from service.cluster.moving.source import MovingRefused
from service.cluster.nodes.notes import Note, read_notes
from service.cluster.shards.owner import owner_of
from service.cluster.store.seam import Store
from service.common.addresses import split_address

ASK_S = 1.0
LONGEST_BEAT_S = 60.0


def refuse_living(store: Store, shards: int) -> None:
    """Raise MovingRefused, naming the node, if one of a cluster is at work: its note changes, or it takes connections.

    Waits for two beats where a note is left. Raises StoreUnavailable.
    """
    owners = {owner.address for shard in range(shards) if (owner := owner_of(store, shard))} - {NOBODY}
    for address in sorted(owners):
        if _answers(address):
            raise _refused(store, address)
    before = {note.address: note for note in read_notes(store)}
    if not before:
        return
    time.sleep(min(LONGEST_BEAT_S, 2 * max(note.beat_s for note in before.values())))
    for note in read_notes(store):
        if _beats(note, before.get(note.address)):
            raise _refused(store, note.address)


def _beats(now: Note, before: Note | None) -> bool:
    return before is None or (now.started, now.beat) != (before.started, before.beat)


def _answers(address: str) -> bool:
    """Whether something takes connections at an address."""
    try:
        host, port = split_address("node", address)
        with socket.create_connection((host, port), ASK_S):
            return True
    except (OSError, ValueError):
        return False


def _refused(store: Store, address: str) -> MovingRefused:
    return MovingRefused(f"{store.url}: the node {address} is at work on it: stop all nodes first")
