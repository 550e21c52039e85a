"""Quick forms of `dev.py torture --only model`, which runs a thousand histories, and a server that must fail it."""

from __future__ import annotations

import tempfile
from unittest import mock

import pytest
from hypothesis.stateful import run_state_machine_as_test

from service.journal.log import SegmentLog, Staged
from tests import memory
from tests.torture.machine import Machine, how
from tests.torture.report import Part


def histories(n: int, steps: int) -> Part:
    in_memory = memory.folder()  # these crashes copy files, they cut no power: no sync is needed
    Machine.part = part = Part()
    with mock.patch.object(tempfile, "tempdir", in_memory and str(in_memory)):
        run_state_machine_as_test(Machine, settings=how(n, steps))
    return part


def test_events_in_any_order_with_crashes_between_match_a_model_of_dicts():
    part = histories(12, 40)

    assert part.good, part.as_json()
    assert part.hits > 5, "too few crashes"
    assert part.acknowledged > 50, "too few answers compared at the end"


def test_a_server_that_acknowledges_before_it_writes_is_detected(monkeypatch):
    monkeypatch.setattr(SegmentLog, "stage", lambda self, payloads: Staged(self.end, self.chain))

    with pytest.raises(AssertionError):
        histories(12, 40)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_hundred_and_fifty_long_histories():
    part = histories(150, 80)

    assert part.good, part.as_json()
    assert part.hits > 100
    assert part.acknowledged > 2000
