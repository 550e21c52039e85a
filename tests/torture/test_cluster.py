"""Quick forms of `dev.py torture --only cluster`, which provokes every fault ten times on each engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.torture import cluster, cluster_losses, cluster_mutants, mutants
from tests.torture.report import Part

QUICK = ("store.after_append", "claim.duel")
OF_ENGINES = {
    "objects": (cluster.UNSURE, cluster.FAILED, cluster.CUT, "claim.unhinted"),
    "postgres": (cluster.UNSURE, cluster.RESTARTED, cluster.CUT, "handover.leaving"),
}
PINNED = [
    "no claim frame", "epoch checked only in memory", "ack before the store", "retry with new bytes",
    "versions named before they are written",
]  # fmt: skip


def test_the_list_of_mutants_is_complete():
    assert [mutant.name for mutant in cluster_mutants.MUTANTS] == PINNED


@pytest.mark.parametrize("mutant", cluster_mutants.MUTANTS, ids=PINNED)
async def test_the_scenario_of_a_check_fails_without_it(tmp_path, mutant):
    part = Part()

    await mutants.tried(part, mutant, tmp_path)

    assert part.mutants_caught == [mutant.name]


async def provoked(folder: Path, engine: str, faults: Sequence[str]) -> None:
    part = await cluster.rounds(folder, engine, faults, seed=1)

    assert part.good, part.wrong or part.as_json()
    assert set(part.hits_of) == set(faults)
    assert part.acknowledged > 20 * len(faults)


@pytest.mark.long  # a kill without a failpoint: tests/cluster/test_failover.py
async def test_faults_of_nodes_lose_nothing_and_change_no_answer_and_no_weight(tmp_path):
    await provoked(tmp_path, "folder", QUICK)


@pytest.mark.long
@pytest.mark.timeout(1700)
async def test_no_fault_of_nodes_loses_anything(tmp_path):
    await provoked(tmp_path, "folder", cluster.plan("folder", 1, seed=1))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", OF_ENGINES)
async def test_faults_of_the_store_lose_nothing(tmp_path, engine):
    await provoked(tmp_path, engine, OF_ENGINES[engine])


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_an_engine_that_loses_one_write_in_many_is_refused_by_every_node(tmp_path):
    part = await cluster_losses.one_in_many_is_refused(tmp_path)

    assert part.good, part.wrong or part.summary
