"""No cut or flipped bit makes a journal accept a wrong record or skip one silently."""

from __future__ import annotations

import zlib

import pytest

from service.journal import examine
from tests.torture import damage


def test_a_journal_cut_or_flipped_anywhere_opens_as_a_prefix_or_is_refused():
    found = damage.run(quick=True)

    assert (found["wrong"], found["silent_skips"]) == (0, 0), found
    assert found["hits"] > 1000


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_byte_of_64_kib_every_boundary_of_1_mib_and_a_bit_in_every_record():
    found = damage.run(quick=False)

    assert (found["wrong"], found["silent_skips"]) == (0, 0), found
    assert found["hits"] > 64 << 10


def test_a_journal_without_checksums_is_detected(monkeypatch):
    monkeypatch.setattr(zlib, "crc32", lambda data, chain=0: 0)

    assert damage.run(quick=True)["wrong"] > 0


def test_a_journal_that_treats_all_damage_as_a_torn_end_is_detected(monkeypatch):
    monkeypatch.setattr(examine, "find_later_commit", lambda tail: None)

    assert damage.run(quick=True)["silent_skips"] > 0
