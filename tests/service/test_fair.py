"""Whose turn it is: work is shared between tenants, then between the models of each, and nobody saves up a claim."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.learning.fair import FIRST_S, Fair, Pace


def anyone(tenant: str) -> bool:
    return True


def turn_of(fair: Fair, may: Callable[[str], bool]) -> tuple[str, int]:
    """The tenant and model of the next turn, which there is."""
    turn = fair.next(may)
    assert turn is not None
    return turn


def test_the_models_of_a_tenant_share_the_work_not_the_turns():
    fair, worked = Fair(), {1: 0.0, 2: 0.0}
    cost = {1: 1.0, 2: 0.01}
    for model in cost:
        fair.wait("acme", model)

    while sum(worked.values()) < 100:
        tenant, model = turn_of(fair, anyone)
        fair.charge(tenant, model, cost[model])
        worked[model] += cost[model]

    assert abs(worked[1] - worked[2]) <= 1.0


def test_a_tenant_with_many_models_has_no_more_than_one_with_a_single_one():
    fair, worked = Fair(), {"many": 0.0, "one": 0.0}
    for model in range(9):
        fair.wait("many", model)
    fair.wait("one", 9)

    for _ in range(1000):
        tenant, model = turn_of(fair, anyone)
        fair.charge(tenant, model, 0.1)
        worked[tenant] += 0.1

    assert abs(worked["many"] - worked["one"]) <= 0.1 + 1e-9


@given(st.integers(0, 10**9), st.integers(2, 5))
def test_of_models_that_always_wait_none_is_further_ahead_than_one_chunk_of_each(seed, models):
    rng, fair = random.Random(seed), Fair()
    worked = dict.fromkeys(range(models), 0.0)
    for model in worked:
        fair.wait("acme", model)

    for _ in range(200):
        tenant, model = turn_of(fair, anyone)
        estimate, cost = rng.uniform(0, 1), rng.uniform(0, 1)
        fair.charge(tenant, model, estimate)
        fair.charge(tenant, model, cost - estimate)  # as measured
        worked[model] += cost
        assert max(worked.values()) - min(worked.values()) <= 2.0


def test_whoever_had_nothing_to_learn_goes_next_but_does_not_make_up_for_it():
    fair = Fair()
    fair.wait("acme", 1)
    for _ in range(50):
        tenant, model = turn_of(fair, anyone)
        fair.charge(tenant, model, 1.0)

    fair.wait("acme", 2)
    turns = []
    for _ in range(10):
        tenant, model = turn_of(fair, anyone)
        fair.charge(tenant, model, 1.0)
        turns.append(model)

    assert 2 in turns[:2], "it waits for one chunk of the other at most"
    assert turns.count(2) <= 6


def test_a_tenant_that_may_not_is_passed_over_and_comes_back_without_a_claim():
    fair = Fair()
    fair.wait("held", 1)
    fair.wait("free", 2)

    for _ in range(20):
        tenant, model = turn_of(fair, lambda name: name != "held")
        assert tenant == "free"
        fair.charge(tenant, model, 1.0)
    assert fair.next(lambda name: False) is None
    assert fair.next(anyone) == ("held", 1)


def test_what_rests_or_is_gone_has_no_turn_and_leaves_nothing_behind():
    fair = Fair()
    fair.wait("acme", 1)
    fair.wait("acme", 2)
    fair.rest("acme", 1)

    assert fair.next(anyone) == ("acme", 2)
    fair.forget(2)
    assert fair.next(anyone) is None
    fair.charge("acme", 2, 1.0)  # of a chunk that was under way
    fair.forget(1)
    assert not fair._tenants


def test_a_pace_is_what_was_measured_lately_and_weighs_large_chunks_more():
    pace = Pace()
    assert pace.of_entries(10) == pytest.approx(10 * FIRST_S)

    pace.took(1.0, 1000, 100)
    assert pace.of_entries(50) == pytest.approx(0.5)
    assert pace.of_bytes(500) == pytest.approx(0.5)
    pace.took(0.001, 10, 1)
    assert pace.of_entries(100) == pytest.approx(1.0, rel=0.02)
    for _ in range(200):
        pace.took(0.2, 1000, 100)
    assert pace.of_entries(100) == pytest.approx(0.2, rel=0.02)
