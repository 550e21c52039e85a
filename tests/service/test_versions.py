"""Versions: numbered once, never changed, checked before use."""

import sqlite3
import threading
from dataclasses import replace
from hashlib import sha256

import pytest

from service.storage.versions import Blobs, Version, VersionCorrupt, VersionMissing, Versions

WEIGHTS, CANARY = b"weights", b"canary"


def made(onnx: bytes, offset: int, model: int = 1, number: int = 0) -> Version:
    return Version(
        model=model,
        number=number,
        parent=0,
        offset=offset,
        digest=sha256(onnx).hexdigest(),
        weights_digest=sha256(WEIGHTS).hexdigest(),
        created=1.5e9,
        loss=0.25,
        anchor_loss=None,
        parity_error=1e-7,
    )


@pytest.fixture
def versions(tmp_path):
    versions = Versions(tmp_path / "versions.db")
    yield versions
    versions.close()


def add(versions: Versions, onnx: bytes, offset: int, model: int = 1, number: int = 0) -> int:
    return versions.add(made(onnx, offset, model, number), onnx, WEIGHTS, CANARY)


def test_versions_are_numbered_from_one_for_each_model(versions):
    assert [add(versions, b"a", 10), add(versions, b"b", 20), add(versions, b"a", 10, model=2)] == [1, 2, 1]


def test_facts_and_bytes_are_there_after_reopening(tmp_path):
    versions = Versions(tmp_path / "versions.db")
    number = add(versions, b"a", 10)
    versions.close()

    reopened = Versions(tmp_path / "versions.db")

    assert reopened.get(1, number) == replace(made(b"a", 10), number=number)
    assert reopened.blobs(1, number) == Blobs(b"a", WEIGHTS, CANARY)
    reopened.close()


def test_adding_the_same_version_again_answers_its_number_and_changes_nothing(versions):
    first = add(versions, b"a", 10)
    add(versions, b"b", 20)

    again = versions.add(replace(made(b"a", 10), created=2e9), b"a", WEIGHTS, CANARY)

    assert again == first
    assert [version.created for version in versions.list(1)] == [1.5e9, 1.5e9]


def test_the_same_bytes_at_another_offset_are_another_version(versions):
    assert [add(versions, b"a", 10), add(versions, b"a", 20)] == [1, 2]


def test_versions_are_listed_newest_first(versions):
    for offset in (10, 20, 30):
        add(versions, b"%d" % offset, offset)

    assert [(version.number, version.offset) for version in versions.list(1)] == [(3, 30), (2, 20), (1, 10)]


def test_pruning_keeps_what_it_is_told_to_and_frees_no_number(versions):
    for offset in (10, 20, 30):
        add(versions, b"%d" % offset, offset)

    assert versions.prune(1, keep={1, 99}) == 2

    assert [version.number for version in versions.list(1)] == [1]
    assert add(versions, b"d", 40) == 4
    with pytest.raises(VersionMissing, match="model 1 has no version 3"):
        versions.get(1, 3)
    with pytest.raises(VersionMissing):
        versions.blobs(1, 3)


def test_a_number_that_was_used_is_refused(versions):
    add(versions, b"a", 10, number=5)

    with pytest.raises(ValueError, match="version number 5 is taken, the last is 5"):
        add(versions, b"b", 20, number=5)
    assert add(versions, b"b", 20) == 6


@pytest.mark.parametrize("blob", ["onnx", "weights", "canary"])
@pytest.mark.parametrize("damage", [b"A", b"", b"aa"], ids=["flipped", "emptied", "longer"])
def test_damaged_bytes_are_never_handed_out(tmp_path, blob, damage):
    versions = Versions(tmp_path / "versions.db")
    add(versions, b"a", 10)
    with sqlite3.connect(tmp_path / "versions.db") as sql:
        sql.execute(f"UPDATE versions SET {blob} = ?", (damage,))
    sql.close()

    with pytest.raises(VersionCorrupt, match=f"model 1 version 1: {blob} does not match its sha256"):
        versions.blobs(1, 1)
    versions.close()


def test_bytes_that_do_not_match_the_digest_are_not_added(versions):
    with pytest.raises(ValueError, match="is not the sha256 of the bytes"):
        versions.add(made(b"a", 10), b"other", WEIGHTS, CANARY)

    assert versions.list(1) == []


def test_threads_that_add_at_once_get_different_numbers(versions):
    numbers = []
    threads = [threading.Thread(target=lambda i=i: numbers.append(add(versions, b"%d" % i, i))) for i in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(numbers) == list(range(1, 9))


def test_a_pinned_version_is_not_pruned_also_after_reopening(tmp_path):
    versions = Versions(tmp_path / "versions.db")
    for offset in range(1, 5):
        add(versions, b"%d" % offset, offset)
    versions.pin(1, 2)
    versions.pin(1, 2)
    versions.close()

    reopened = Versions(tmp_path / "versions.db")
    reopened.prune(1, keep={4})

    assert [v.number for v in reopened.list(1)] == [4, 2]
    with pytest.raises(VersionMissing, match="no version 3"):
        reopened.pin(1, 3)
    reopened.close()
