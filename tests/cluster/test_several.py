"""Ports and addresses that tests give to their servers."""

from __future__ import annotations

from itertools import chain, islice

import pytest

from service.cluster.nodes.placing import preferred
from tests.journeys.clusters import addresses
from tests.ports import END, FIRST, ports


def test_the_processes_of_a_run_share_no_port_and_each_gives_its_own_in_turn():
    given = [list(islice(ports(worker, 3), (END - FIRST) // 3)) for worker in range(3)]
    assert sorted(chain(*given)) == list(range(FIRST, END))


@pytest.mark.parametrize(("nodes", "shards"), [(1, 2), (2, 2), (2, 4), (3, 2), (3, 4)])
def test_each_node_owns_a_shard_if_there_are_enough(nodes, shards):
    for _ in range(20):
        drawn = addresses(nodes, shards)
        assert len({preferred(shard, drawn) for shard in range(shards)}) == min(nodes, shards)
