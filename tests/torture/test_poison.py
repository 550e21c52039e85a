"""The quick and the full form of `dev.py torture --only poison`."""

from __future__ import annotations

import pytest

from tests.torture import poison

WHOLE = (pytest.mark.long, pytest.mark.timeout(900))


@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=WHOLE)], ids=["quick", "whole"])
def test_absurd_values_of_one_stream_cost_the_others_little_with_the_guards_and_much_without(quick):
    found = poison.run(quick)

    assert found["guarded"] <= poison.CONTAINED
    assert found["unguarded"] >= poison.HARMFUL, "the run is too mild"
