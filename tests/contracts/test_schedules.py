"""The contract of every registered schedule, and comparison with its plain form."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from model.update.schedules import SCHEDULES, Schedule
from tests.contracts.registry import chosen, proven
from tests.oracles import plain_optimizers

RATE, LENGTH = 3e-3, 400

every_schedule = pytest.mark.parametrize(
    "name", proven(chosen(SCHEDULES, "schedule"), plain_form=plain_optimizers.SCHEDULES)
)
every_warmup = pytest.mark.parametrize("warmup", [0, 1, 50])


def settings(warmup: int) -> Any:
    """Return the fields of a spec that schedules read."""
    return SimpleNamespace(learning_rate=RATE, warmup=warmup, schedule_updates=LENGTH)


def make(name: str, warmup: int) -> Schedule:
    return SCHEDULES[name](settings(warmup))


@every_schedule
@every_warmup
def test_a_schedule_equals_its_plain_form(name: str, warmup: int) -> None:
    at, plain = make(name, warmup), plain_optimizers.SCHEDULES[name]
    for updates in [*range(3 * LENGTH), 10**6]:
        assert at(updates) == pytest.approx(plain(settings(warmup), updates + 1), rel=1e-12)


@every_schedule
@every_warmup
def test_the_rate_rises_in_equal_steps_to_the_given_rate_and_never_rises_again(name: str, warmup: int) -> None:
    at = make(name, warmup)
    for updates in range(warmup):
        assert at(updates) == pytest.approx(RATE * (updates + 1) / warmup, rel=1e-12)
    assert at(max(0, warmup - 1)) == RATE  # exactly, so that a constant schedule changes nothing
    later = [at(updates) for updates in range(max(0, warmup - 1), 3 * LENGTH)]
    assert all(b <= a for a, b in pairwise(later))
    assert later[-1] > 0


@every_schedule
def test_a_schedule_depends_on_the_count_alone(name: str) -> None:
    one, other = make(name, 10), make(name, 10)
    forwards = [one(updates) for updates in range(LENGTH)]
    assert [other(updates) for updates in reversed(range(LENGTH))] == forwards[::-1]


@pytest.mark.parametrize(("name", "warmup"), [("cosine", 0), ("cosine", 50), ("inverse_sqrt", 0)])
def test_a_tenth_of_the_rate_is_left_after_schedule_updates(name: str, warmup: int) -> None:
    assert make(name, warmup)(warmup + LENGTH) == pytest.approx(RATE / 10, rel=1e-12)
    assert make(name, warmup)(warmup + LENGTH - 1) > RATE / 10


def test_cosine_stays_at_a_tenth_of_the_rate() -> None:
    assert make("cosine", 0)(10**9) == pytest.approx(RATE / 10, rel=1e-12)


def test_a_negative_rate_stays_negative_so_that_the_gate_can_be_tested() -> None:
    for name, make_schedule in SCHEDULES.items():
        settings: Any = SimpleNamespace(learning_rate=-RATE, warmup=5, schedule_updates=LENGTH)
        backwards = make_schedule(settings)
        assert [backwards(n) for n in range(99)] == [-make(name, 5)(n) for n in range(99)]
