"""A quick form of `dev.py torture --only power`, which cuts two hundred times."""

from __future__ import annotations

import pytest

from tests.torture import power


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(power.why_not()), reason=f"no power cuts: {power.why_not()}")
async def test_a_power_cut_loses_acknowledged_data_only_without_fsync(tmp_path):
    part = await power.both(tmp_path, power.FEW_CUTS)

    assert part.good, part.as_json()
    assert part.mutants_caught == [power.MUTANT]
