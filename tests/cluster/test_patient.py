"""Data moves although the store refuses calls, or answers some with an error after having written."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from service.cluster.moving.digests import lines
from service.cluster.moving.exporting import export_directory
from service.cluster.moving.importing import import_directory
from service.cluster.moving.patient import Patient
from service.cluster.store.seam import Extent, StoreUnavailable
from tests.cluster.test_moving import SHARDS, history


async def test_a_store_that_fails_every_third_call_and_answers_wrongly_gets_and_gives_everything(store, tmp_path):
    await history(tmp_path / "data")
    count, waited = itertools.count(), list[float]()
    store.down = lambda operation: next(count) % 3 == 2
    store.errors_after = {"append": 3, "claim": 2, "put": 20, "note": 1}

    def sleep(seconds: float) -> bool:
        waited.append(seconds)
        return False

    patient = Patient(store, sleep)
    there = await asyncio.to_thread(import_directory, tmp_path / "data", patient, SHARDS)
    assert set(store.errors_after.values()) == {0}
    again = await asyncio.to_thread(export_directory, patient, tmp_path / "back")
    assert lines(again.digests) == lines(there.digests)
    assert len(waited) > 50


def test_entries_are_read_on_from_the_one_that_failed(store):
    extents = []
    for n in range(6):
        extents.append(Extent(4 * n, 4))
        store.append(0, 4 * n, 1, b"%04d" % n)
    inner, failing = store.inner.read, [0, 2, 2, 5]

    def read(shard, wanted):
        for extent, data in zip(wanted, inner(shard, wanted), strict=True):
            if failing and extent.offset == 4 * failing[0]:
                del failing[0]
                raise StoreUnavailable("a test's")
            yield data

    store.inner.read = read
    assert list(Patient(store, lambda seconds: False).read(0, extents)) == [b"%04d" % n for n in range(6)]
    assert not failing


def test_a_store_that_never_answers_is_given_up(store):
    store.down = lambda operation: True
    with pytest.raises(StoreUnavailable):
        Patient(store, lambda seconds: True).get("cluster")
