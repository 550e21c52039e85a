"""Quick forms of `dev.py torture --only cluster`, which provokes every fault ten times on each engine."""

from __future__ import annotations

import pytest

from tests.torture import cluster

WORST = (
    "store.after_append",
    "claim.unhinted",
    "image.unpublished",
    "node.paused",
    "version.named",
    "handover.leaving",
)


@pytest.mark.parametrize("faults", [2, pytest.param(6, marks=pytest.mark.long)])
async def test_faults_of_nodes_lose_nothing_and_change_no_answer_and_no_weight(tmp_path, faults):
    part = await cluster.rounds(tmp_path, "folder", WORST[:faults], seed=1)

    assert part.good, part.wrong or part.as_json()
    assert set(part.hits_of) == set(WORST[:faults])
    assert part.acknowledged > 50 * faults
