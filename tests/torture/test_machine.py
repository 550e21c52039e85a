"""Quick forms of what `dev.py torture --only model` does a thousand times, and a server that it must not pass."""

from __future__ import annotations

import pytest
from hypothesis.stateful import run_state_machine_as_test

from service.journal.writer import Journal
from tests.torture.machine import Machine, how
from tests.torture.report import Part


def histories(n: int, steps: int) -> Part:
    Machine.part = part = Part()
    run_state_machine_as_test(Machine, settings=how(n, steps))
    return part


def test_whatever_happens_in_whatever_order_with_crashes_between_is_as_a_few_dicts_say():
    part = histories(12, 40)

    assert part.good, part.as_json()
    assert part.hits > 5, "crashes"
    assert part.acknowledged > 50, "answers that were compared at the end"


def test_a_server_that_acknowledges_before_it_writes_does_not_pass(monkeypatch):
    monkeypatch.setattr(Journal, "_write", lambda self, batch: (0, [chunk.ticks() for chunk in batch]))

    with pytest.raises(AssertionError):
        histories(12, 40)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_hundred_and_fifty_long_histories():
    part = histories(150, 80)

    assert part.good, part.as_json()
    assert part.hits > 100
    assert part.acknowledged > 2000
