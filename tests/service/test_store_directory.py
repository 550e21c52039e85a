"""The store in a folder: nothing is seen before it is whole and synced, and what the disk refuses is named."""

import errno
import os
from pathlib import Path

import pytest

from service.cluster.store import directory
from service.cluster.store.opening import open_store
from service.cluster.store.seam import StoreRefused, StoreUnavailable


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def store(root):
    return open_store(root.as_uri())


@pytest.fixture
def acts(monkeypatch):
    """What reaches the disk, in order: (what, path)."""
    seen = []
    fsync, link = os.fsync, os.link

    def seen_fsync(fd):
        fsync(fd)
        seen.append(("sync", Path(os.readlink(f"/proc/self/fd/{fd}"))))

    def seen_link(source, target):
        link(source, target)
        seen.append(("link", Path(target)))

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "link", seen_link)
    return seen


def test_an_entry_is_synced_before_it_has_its_name_and_the_name_before_it_is_confirmed(store, root, acts):
    store.claim(3, 0, 1, b"claim")
    folder = root / "journal" / "003"
    made = [(what, path) for what, path in acts if path in (folder.parent, root)]
    assert made == [("sync", root), ("sync", folder.parent)]  # the names of the new folders
    del acts[:]
    store.append(3, 5, 1, b"entry")
    (content, unfinished), *rest = acts
    assert content == "sync"
    assert unfinished.parent == root / directory.UNFINISHED
    assert rest == [("link", folder / f"{5:020d}"), ("sync", folder)]


def test_an_entry_that_was_there_is_confirmed_only_after_its_name_is_synced(store, root, acts):
    store.claim(3, 0, 1, b"claim")
    del acts[:]
    store.claim(3, 0, 1, b"claim")
    assert acts[-1] == ("sync", root / "journal" / "003")


def test_an_append_that_fails_leaves_nothing(store, root, monkeypatch):
    store.claim(3, 0, 1, b"claim")
    before = sorted(root.rglob("*"))

    def fail(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StoreUnavailable, match="No space left"):
            store.append(3, 5, 1, b"entry")
    assert sorted(root.rglob("*")) == before
    store.append(3, 5, 1, b"entry")


def test_a_folder_whose_names_cannot_be_synced_is_refused_and_not_tried_again(store, root, monkeypatch):
    store.claim(3, 0, 1, b"claim")
    fsync = os.fsync

    def fail(fd):
        if os.readlink(f"/proc/self/fd/{fd}").endswith("003"):
            raise OSError(errno.EIO, "Input/output error")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreRefused, match="cannot be made durable: Input/output error"):
        store.append(3, 5, 1, b"entry")
    monkeypatch.undo()
    with pytest.raises(StoreRefused, match="cannot be made durable"):
        store.append(3, 5, 1, b"entry")  # a sync that succeeds now would say nothing about the first


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM, errno.EOPNOTSUPP])
def test_a_folder_that_may_not_be_written_is_refused_with_the_remedy(store, monkeypatch, number):
    def fail(source, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(StoreRefused, match="give the user of the server the right to write there"):
        store.append(3, 5, 1, b"entry")


def test_a_folder_that_another_node_has_deleted_is_made_again(root):
    stores = [open_store(root.as_uri()) for _ in range(2)]
    for store in stores:
        store.claim(1, 0, 1, b"claim")
    stores[0].trim(1, 5, frozenset())  # the folder goes with its last entry
    assert not (root / "journal" / "001").exists()
    with pytest.raises(StoreUnavailable):
        stores[1].claim(1, 5, 2, b"claim 2")
    stores[1].claim(1, 5, 2, b"claim 2")
    stores[0].append(1, 12, 2, b"entry")
    assert list(stores[0].read(1, stores[0].extents(1, 0))) == [b"claim 2", b"entry"]


def test_what_killed_processes_left_unfinished_is_deleted_once_it_is_old(store, root, monkeypatch):
    left, new = (root / directory.UNFINISHED / name for name in ("left", "new"))
    for path in (left, new):
        path.write_bytes(b"half")
    old = left.stat().st_mtime - directory.UNFINISHED_S - 1
    os.utime(left, (old, old))
    again = open_store(root.as_uri())
    assert not left.exists()
    assert new.exists()
    assert again.list("") == []


def test_files_of_others_in_the_folder_are_no_entries(store, root):
    store.claim(3, 0, 1, b"claim")
    (root / "journal" / "003" / ".nfs0001").write_bytes(b"x")
    assert [extent.offset for extent in store.extents(3, 0)] == [0]
