"""Products of options: the default run shows each value, and each combination that matters; `--all` is the whole."""

from __future__ import annotations

from itertools import product

from tests.conftest import covering

CASES = list(product("abcd", range(3), [True, False]))


def test_the_long_tests_are_the_rest_of_the_product():
    assert [parameters.values for parameters in covering(CASES)] == CASES


def test_the_default_run_has_every_value_and_every_combination_of_what_acts_together():
    chosen = [parameters.values for parameters in covering(CASES, (0, 1)) if not parameters.marks]
    assert {case[:2] for case in chosen} == set(product("abcd", range(3)))
    assert {case[2] for case in chosen} == {True, False}
    assert len(chosen) == 12, "and no more"


def test_without_combinations_every_value_is_there_in_as_few_cases_as_the_longest_option_has_values():
    chosen = [parameters.values for parameters in covering(CASES) if not parameters.marks]
    assert [len({case[place] for case in chosen}) for place in range(3)] == [4, 3, 2]
    assert len(chosen) == 4
