"""The contract of every backend of the store: one entry per offset, durable blobs, notes, and what a listing sees."""

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.cluster.store.opening import open_store
from service.cluster.store.seam import Conflict, Extent, Listed, Missing, StoreLost, StoreRefused


def in_postgres(request):
    from service.cluster.store.postgres import initialise

    url = request.getfixturevalue("postgres").url(f"s{uuid.uuid4().hex}")
    initialise(url)
    return url


# Of each backend: its name, and how a test gets the URL of an empty store.
BACKENDS: dict[str, Callable[[Any], str]] = {
    "directory": lambda request: (request.getfixturevalue("tmp_path") / "store").as_uri(),
    "objects": lambda request: request.getfixturevalue("seaweed").url(uuid.uuid4().hex),
    "postgres": in_postgres,
}
WRITERS = 8


@pytest.fixture(params=BACKENDS)
def url(request):
    return BACKENDS[request.param](request)


@pytest.fixture
def opened(url):
    """Open the store, as another node does; closed after the test."""
    stores = []

    def opened():
        stores.append(open_store(url))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


@pytest.fixture
def store(opened):
    return opened()


def claimed(store, shard=3, epoch=1, data=b"claim"):
    store.claim(shard, 0, epoch, data)
    return len(data)


def test_entries_are_read_as_they_were_appended_by_any_node(store, opened):
    at = claimed(store)
    store.append(3, at, 1, b"first")
    store.append(3, at + 5, 1, b"\0second\xff")
    other = opened()
    extents = other.extents(3, 0)
    assert extents == [Extent(0, 5), Extent(5, 5), Extent(10, 8)]
    assert list(other.read(3, extents)) == [b"claim", b"first", b"\0second\xff"]
    assert other.extents(3, 6) == [Extent(10, 8)]
    assert other.extents(4, 0) == []


def test_an_entry_may_be_larger_than_a_message_and_its_offset_than_32_bits(store):
    store.claim(255, 2**40, 1, b"claim")
    large = bytes(range(256)) * 20_000
    store.append(255, 2**40 + 5, 1, large)
    assert list(store.read(255, store.extents(255, 2**40 + 1))) == [large]


def test_many_entries_are_listed_and_read_in_the_order_of_their_offsets(store):
    at = claimed(store)
    expected = [b"claim"]
    for n in range(150):  # 99 → 100 is a longer number
        expected.append(b"%d" % n)
        store.append(3, at, 1, expected[-1])
        at += len(expected[-1])
    extents = store.extents(3, 0)
    assert extents == sorted(extents)
    assert list(store.read(3, extents)) == expected


def test_an_offset_holds_one_entry_and_the_first_stays(store):
    at = claimed(store)
    store.append(3, at, 1, b"mine")
    for other in (b"else", b"mine and more", b"min"):
        with pytest.raises(Conflict):
            store.append(3, at, 1, other)
    assert list(store.read(3, store.extents(3, at))) == [b"mine"]


def test_a_repeated_append_or_claim_finds_its_own_entry(store, opened):
    claimed(store)
    claimed(store)
    for node in (store, store, opened()):
        node.append(3, 5, 1, b"mine")
    assert store.extents(3, 0) == [Extent(0, 5), Extent(5, 4)]


def test_a_former_owner_collides_with_the_claim_of_its_successor(store, opened):
    successor, at = opened(), claimed(store)
    store.append(3, at, 1, b"last")
    successor.claim(3, at + 4, 2, b"claim 2")
    with pytest.raises(Conflict):
        store.append(3, at + 4, 1, b"late")
    successor.append(3, at + 11, 2, b"next")
    assert list(store.read(3, store.extents(3, at))) == [b"last", b"claim 2", b"next"]


def test_a_claim_at_an_offset_that_the_owner_has_taken_conflicts_and_changes_nothing(store, opened):
    at = claimed(store)
    store.append(3, at, 1, b"faster")
    with pytest.raises(Conflict):
        opened().claim(3, at, 2, b"claim 2")
    store.append(3, at + 6, 1, b"still the owner")
    assert [extent.offset for extent in store.extents(3, 0)] == [0, 5, 11]


def test_of_racing_claims_one_wins(opened):
    nodes, together = [opened() for _ in range(WRITERS)], threading.Barrier(WRITERS)

    def claim(n):
        together.wait()
        try:
            nodes[n].claim(3, 0, 1, b"claim of %d" % n)
        except Conflict:
            return None
        return b"claim of %d" % n

    with ThreadPoolExecutor(WRITERS) as pool:
        won = [data for data in pool.map(claim, range(WRITERS)) if data]
    assert len(won) == 1
    assert list(nodes[0].read(3, nodes[0].extents(3, 0))) == won


def test_shards_do_not_see_each_other(store):
    for shard in (0, 1, 255):
        store.claim(shard, 0, 1, b"claim of %d" % shard)
    assert [list(store.read(s, store.extents(s, 0))) for s in (0, 1, 255)] == [
        [b"claim of 0"], [b"claim of 1"], [b"claim of 255"]
    ]  # fmt: skip


def test_trimming_deletes_what_lies_before_and_keeps_claims(store):
    at = claimed(store)
    for n in range(4):
        store.append(3, at + n, 1, b"%d" % n)
    store.claim(4, 0, 1, b"claim")
    assert store.trim(3, 7, frozenset({0})) == 2
    assert store.trim(3, 7, frozenset({0})) == 0
    assert store.extents(3, 0) == [Extent(0, 5), Extent(7, 1), Extent(8, 1)]
    assert store.extents(4, 0) == [Extent(0, 5)]
    with pytest.raises(Conflict):
        store.append(3, 0, 1, b"a former owner")


def test_trimming_deletes_more_than_one_request_can(store, monkeypatch):
    monkeypatch.setattr("service.cluster.store.objects.PAGE", 7)
    monkeypatch.setattr("service.cluster.store.postgres.TRIM_ROWS", 7)
    at = claimed(store)
    for n in range(20):
        store.append(3, at + n, 1, b"x")
    assert store.trim(3, at + 19, frozenset({0})) == 19
    assert store.extents(3, 0) == [Extent(0, 5), Extent(at + 19, 1)]


def test_an_entry_that_is_gone_or_has_another_size_is_reported_with_shard_and_offset(store):
    claimed(store)
    for extent in (Extent(5, 4), Extent(0, 6)):
        with pytest.raises(StoreLost, match=f"shard 3 at offset {extent.offset}"):
            list(store.read(3, [extent]))


def test_a_blob_is_seen_by_every_node_and_never_changes(store, opened):
    store.put("shards/003/blobs/1-ab", b"\0blob")
    store.put("shards/003/blobs/1-ab", b"\0blob")
    with pytest.raises(Conflict, match="shards/003/blobs/1-ab"):
        store.put("shards/003/blobs/1-ab", b"other")
    assert opened().get("shards/003/blobs/1-ab") == b"\0blob"


def test_a_blob_may_be_empty_or_large(store):
    for name, data in {"empty": b"", "large": bytes(3 << 20)}.items():
        store.put(name, data)
        assert store.get(name) == data


def test_a_note_is_replaced(store, opened):
    other = opened()
    for n in range(3):
        store.note("nodes/a_8300", b"note %d" % n)
        assert other.get("nodes/a_8300") == b"note %d" % n


def test_a_missing_name_is_reported(store):
    with pytest.raises(Missing, match="nodes/none"):
        store.get("nodes/none")


def test_a_listing_has_the_names_that_begin_with_the_prefix_and_no_entries(store):
    claimed(store)
    names = ["cluster", "nodes/a_1", "nodes/ab_1", "nodes_2", "shards/003/blobs/1-ab", "shards/003/images/7"]
    for name in names:
        store.put(name, name.encode())
    for prefix in ("", "nodes/", "nodes", "nodes/a", "shards/", "shards/003/b", "none/", "nodes/a_1"):
        expected = [Listed(name, len(name)) for name in names if name.startswith(prefix)]
        assert store.list(prefix) == sorted(expected), prefix


def test_deleted_names_are_gone_and_missing_ones_ignored(store):
    for name in ("a/1", "a/2", "a/3"):
        store.put(name, b"x")
    store.delete(["a/1", "a/3", "a/none"])
    store.delete([])
    assert store.list("a/") == [Listed("a/2", 1)]
    store.put("a/1", b"y")
    assert store.get("a/1") == b"y"


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "A", "a b", "journal/000/1", "a" * 201]
)
def test_a_name_that_some_backend_could_not_have_is_refused(store, name):
    for call in (store.get, lambda name: store.put(name, b""), lambda name: store.note(name, b"")):
        with pytest.raises(ValueError, match="name = "):
            call(name)


@pytest.mark.parametrize("url", ["", "/shared", "ftp://host/x", "file://shared", "file:relative", "file:///"])
def test_a_url_that_names_no_store_is_refused_with_a_remedy(url):
    with pytest.raises(StoreRefused, match=r"use a URL|write file:///FOLDER"):
        open_store(url)


def test_a_folder_without_a_parent_is_refused(tmp_path):
    with pytest.raises(StoreRefused, match="there is no folder"):
        open_store((tmp_path / "none" / "store").as_uri())
