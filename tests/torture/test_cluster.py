"""Quick forms of `dev.py torture --only cluster`, which provokes every fault ten times on each engine."""

from __future__ import annotations

import pytest

from tests.torture import cluster, cluster_mutants, mutants
from tests.torture.report import Part

WORST = (
    "store.after_append",
    "claim.unhinted",
    "image.unpublished",
    "node.paused",
    "version.named",
    "handover.leaving",
)


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


@pytest.mark.parametrize("faults", [2, pytest.param(6, marks=pytest.mark.long)])
async def test_faults_of_nodes_lose_nothing_and_change_no_answer_and_no_weight(tmp_path, faults):
    part = await cluster.rounds(tmp_path, "folder", WORST[:faults], seed=1)

    assert part.good, part.wrong or part.as_json()
    assert set(part.hits_of) == set(WORST[:faults])
    assert part.acknowledged > 50 * faults
