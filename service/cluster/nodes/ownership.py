"""What a node does next about shards: claim those without an owner, fetch those to come, hand over one of its own."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import NamedTuple

from service.cluster.nodes.notes import Note
from service.cluster.nodes.placing import preferred


class Plan(NamedTuple):
    """The next steps of one node."""

    claim: tuple[int, ...]  # shards that no living node owns, and that this node should
    warm: tuple[int, ...]  # shards of others that this node should own: their data is to be fetched
    hand_over: tuple[int, str] | None  # one of its own shards, and the node that has made itself ready for it


def owners(alive: Mapping[str, Note]) -> dict[int, str]:
    """Return the owner of each shard by the notes of living nodes; of two, the one with the higher epoch."""
    best: dict[int, tuple[int, str]] = {}
    for address, note in alive.items():
        for shard, epoch in note.owned.items():
            best[shard] = max(best.get(shard, (0, "")), (epoch, address))
    return {shard: address for shard, (_, address) in best.items()}


def plan(me: str, shards: int, owned: Set[int], alive: Mapping[str, Note]) -> Plan:
    """Return what the node `me` does next. owned: its shards; alive: the notes of living nodes, its own included."""
    staying = {address for address, note in alive.items() if not note.leaving} | {me}
    owner = owners(alive)
    mine = [shard for shard in range(shards) if shard not in owned and preferred(shard, staying) == me]
    claim = tuple(shard for shard in mine if owner.get(shard, me) == me)
    warm = tuple(shard for shard in mine if owner.get(shard, me) != me)
    for shard in sorted(owned):
        target = preferred(shard, staying)
        if target != me and shard in alive[target].warm:
            return Plan(claim, warm, (shard, target))
    return Plan(claim, warm, None)


def heir(me: str, shard: int, alive: Mapping[str, Note]) -> str:
    """Return the node that takes a shard over when `me` leaves; "" if there is none."""
    return preferred(shard, {address for address, note in alive.items() if not note.leaving} - {me})
