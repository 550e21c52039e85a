"""A quick form of what `dev.py torture --only power` does two hundred times."""

from __future__ import annotations

import pytest

from tests.torture import power


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.skipif(bool(power.why_not()), reason=f"no power cuts: {power.why_not()}")
async def test_a_power_cut_loses_nothing_that_was_acknowledged_but_without_fsync_it_does(tmp_path):
    part = await power.both(tmp_path, power.FEW_CUTS)

    assert part.good, part.as_json()
    assert part.mutants_caught == [power.MUTANT]
