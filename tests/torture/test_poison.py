"""A quick form of `dev.py torture --only poison`, and its whole."""

from __future__ import annotations

import pytest

from tests.torture import poison


@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.long)], ids=["quick", "whole"])
def test_absurd_values_of_one_stream_cost_the_others_little_and_much_without_the_guards(quick):
    found = poison.run(quick)

    assert found["guarded"] <= poison.CONTAINED
    assert found["unguarded"] >= poison.HARMFUL, "the run is too mild"
