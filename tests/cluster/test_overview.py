"""What a node says about the cluster, put together from answers and notes."""

from __future__ import annotations

from freshet.v1 import cluster_pb2
from service.cluster.hosting import overview
from service.cluster.nodes.notes import Note


def answer(address: str, owned: dict[int, int], models: int = 0) -> cluster_pb2.NodesResponse:
    node = cluster_pb2.Node(address=address, shards=sorted(owned), answers=True)
    shards = [cluster_pb2.Shard(shard=n, node=address, epoch=epoch, models=models) for n, epoch in owned.items()]
    return cluster_pb2.NodesResponse(nodes=[node], shards=shards)


def note(address: str, owned: dict[int, int]) -> Note:
    return Note(address, "127.0.0.1:0", 5.0, 1, 2.0, owned=owned)


def test_every_shard_is_listed_once_with_or_without_an_owner():
    found = overview.of_all(4, [answer("b:1", {3: 1, 1: 2}, models=5)], [])
    assert [(s.shard, s.node, s.epoch) for s in found.shards] == [(0, "", 0), (1, "b:1", 2), (2, "", 0), (3, "b:1", 1)]
    assert [s.HasField("models") for s in found.shards] == [False, True, False, True]


def test_of_two_nodes_that_say_they_own_a_shard_the_higher_epoch_counts_for_both_lists():
    found = overview.of_all(2, [answer("b:1", {0: 4, 1: 1})], [note("a:1", {0: 3})])
    assert [s.node for s in found.shards] == ["b:1", "b:1"]
    assert [(n.address, list(n.shards), n.answers) for n in found.nodes] == [("a:1", [], False), ("b:1", [0, 1], True)]


def test_a_silent_node_is_shown_by_its_note_and_its_models_are_unknown():
    found = overview.of_all(1, [], [note("a:1", {0: 3})])
    assert (found.shards[0].node, found.shards[0].epoch, found.shards[0].HasField("models")) == ("a:1", 3, False)
    assert (found.nodes[0].http, found.nodes[0].started) == ("127.0.0.1:0", 5.0)


def test_a_shard_beyond_the_clusters_number_is_left_out():
    assert len(overview.of_all(2, [answer("b:1", {7: 1})], []).shards) == 2
