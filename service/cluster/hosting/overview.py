"""What a node answers about the cluster: itself, and the other nodes as they answer, or as they noted last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from freshet.v1 import cluster_pb2
from service.cluster.hosting.held import Held
from service.cluster.nodes.notes import Note


def of_itself(note: Note, held: Mapping[int, Held], tenant: str) -> cluster_pb2.NodesResponse:
    """Return a node and its shards. note: as it would write it now; tenant: whose models are counted."""
    node = _node(note)
    node.answers = True
    shards = []
    for number, epoch in sorted(note.owned.items()):
        models = held[number].components.serving.catalog.models.values()
        count = sum(model.tenant == tenant for model in models)
        shards.append(cluster_pb2.Shard(shard=number, node=note.address, epoch=epoch, models=count))
    return cluster_pb2.NodesResponse(nodes=[node], shards=shards)


def of_all(
    count: int, answers: Iterable[cluster_pb2.NodesResponse], silent: Iterable[Note]
) -> cluster_pb2.NodesResponse:
    """Return all nodes and all shards, 0 .. count - 1. silent: notes of nodes that are alive and did not answer.

    Of two nodes that say they own a shard, the one with the higher epoch does.
    """
    found = list(answers)
    for note in silent:
        shards = [cluster_pb2.Shard(shard=n, node=note.address, epoch=epoch) for n, epoch in note.owned.items()]
        found.append(cluster_pb2.NodesResponse(nodes=[_node(note)], shards=shards))
    owned = {number: cluster_pb2.Shard(shard=number) for number in range(count)}
    for shard in (shard for answer in found for shard in answer.shards):
        if shard.shard < count and shard.epoch > owned[shard.shard].epoch:
            owned[shard.shard] = shard
    nodes = {node.address: node for answer in found for node in answer.nodes}
    for address, node in nodes.items():
        del node.shards[:]
        node.shards.extend(number for number, shard in owned.items() if shard.node == address)
    by_address = [node for _, node in sorted(nodes.items())]
    return cluster_pb2.NodesResponse(nodes=by_address, shards=list(owned.values()))


def _node(note: Note) -> cluster_pb2.Node:
    return cluster_pb2.Node(
        address=note.address, http=note.http, started=note.started, shards=sorted(note.owned), leaving=note.leaving
    )
