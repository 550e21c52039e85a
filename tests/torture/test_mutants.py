"""The scenario of every safety check fails without the check; the list of checks is pinned."""

from __future__ import annotations

import pytest

from tests.torture import mutants
from tests.torture.report import Part

PINNED = [
    "ack before write", "ack before sync", "trainer fed before fsync", "no CRC chain", "no dedupe of ticks",
    "no dedupe of windows", "no epoch check", "no skip", "no gate", "no digest check", "no idle eviction",
]  # fmt: skip


def test_the_list_of_mutants_is_complete():
    assert [mutant.name for mutant in mutants.MUTANTS] == PINNED


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=[m.name for m in mutants.MUTANTS])
async def test_the_scenario_of_a_check_fails_without_it(tmp_path, mutant):
    part = Part()

    await mutants.tried(part, mutant, tmp_path)

    assert part.mutants_caught == [mutant.name]
