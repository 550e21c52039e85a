"""Stores whose connection is cut or stalls, or whose answers are lost: every write is there once."""

import contextlib
import threading
import uuid

import pytest

from service.cluster.store import connections, objects
from service.cluster.store.opening import open_store
from service.cluster.store.postgres import initialise
from service.cluster.store.seam import Conflict, StoreUnavailable
from tests.engines.lossy import Lossy
from tests.engines.proxy import Proxy


@pytest.fixture(params=["objects", "postgres"])
def proxied(request):
    """A store through a proxy, and the proxy."""
    engine = request.getfixturevalue("seaweed" if request.param == "objects" else "postgres")
    name = f"s{uuid.uuid4().hex}"
    if request.param == "postgres":
        initialise(engine.url(name))
    with Proxy(engine.port) as proxy:
        store = open_store(engine.url(name, proxy.port))
        store.claim(3, 0, 1, b"claim")
        yield store, proxy
        store.close()


def entries(store):
    return list(store.read(3, store.extents(3, 0)))


def test_a_write_whose_answer_is_lost_is_found_when_it_is_repeated(proxied):
    store, proxy = proxied
    for call in (
        lambda: store.append(3, 5, 1, b"first"),
        lambda: store.claim(3, 10, 2, b"claim 2"),
        lambda: store.put("blob", b"blob"),
    ):
        proxy.lose_answers(1)
        with pytest.raises(StoreUnavailable):
            call()
        call()
        call()
    assert entries(store) == [b"claim", b"first", b"claim 2"]
    assert store.get("blob") == b"blob"


def test_a_write_that_another_made_while_the_answer_was_lost_is_a_conflict(proxied):
    store, proxy = proxied
    proxy.cut()
    with pytest.raises(StoreUnavailable):
        store.append(3, 5, 1, b"late")
    proxy.flow()
    store.claim(3, 5, 2, b"claim 2")
    with pytest.raises(Conflict):
        store.append(3, 5, 1, b"late")


def test_a_store_that_is_cut_off_is_unavailable_and_comes_back_by_itself(proxied):
    store, proxy = proxied
    proxy.cut()
    for call in (lambda: store.append(3, 5, 1, b"x"), lambda: store.extents(3, 0), lambda: store.get("blob")):
        with pytest.raises(StoreUnavailable):
            call()
    proxy.flow()
    store.append(3, 5, 1, b"x")
    assert entries(store) == [b"claim", b"x"]


def test_a_store_that_stalls_for_a_moment_is_waited_for(proxied):
    store, proxy = proxied
    proxy.stall(0.3)
    store.append(3, 5, 1, b"x")
    assert entries(store) == [b"claim", b"x"]


@pytest.mark.parametrize("engine", ["seaweed", "postgres"])
def test_an_engine_that_is_killed_and_started_again_has_all_that_it_confirmed(request, engine):
    engine, name = request.getfixturevalue(engine), f"s{uuid.uuid4().hex}"
    if not hasattr(engine, "environment"):
        initialise(engine.url(name))
    store = open_store(engine.url(name))
    store.claim(3, 0, 1, b"claim")
    expected = [b"claim", *(b"%d" % (n % 10) for n in range(50)), b"x"]
    for n, data in enumerate(expected[1:-1]):
        store.append(3, 5 + n, 1, data)
    engine.kill()
    with pytest.raises(StoreUnavailable):
        store.append(3, 55, 1, b"x")
    engine.start()
    store.append(3, 55, 1, b"x")
    assert entries(store) == expected
    store.close()


@pytest.mark.parametrize("engine", ["seaweed", "postgres"])
def test_an_engine_that_is_stopped_and_goes_on_answers_what_it_was_asked(request, engine):
    engine, name = request.getfixturevalue(engine), f"s{uuid.uuid4().hex}"
    if not hasattr(engine, "environment"):
        initialise(engine.url(name))
    store = open_store(engine.url(name))
    store.claim(3, 0, 1, b"claim")
    engine.pause()
    threading.Timer(0.3, engine.resume).start()
    store.append(3, 5, 1, b"x")
    assert entries(store) == [b"claim", b"x"]
    store.close()


def test_an_answer_500_after_the_write_is_no_conflict(seaweed):
    with Proxy(seaweed.port) as proxy:
        store = open_store(seaweed.url(uuid.uuid4().hex, proxy.port))
        store.claim(3, 0, 1, b"claim")
        proxy.fail_after_put(2)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="500"):
                store.append(3, 5, 1, b"x")
        store.append(3, 5, 1, b"x")
        assert entries(store) == [b"claim", b"x"]
        store.close()


def test_a_proxy_that_swallows_confirms_writes_that_nobody_finds(seaweed):
    with Proxy(seaweed.port) as proxy:
        store = open_store(seaweed.url(uuid.uuid4().hex, proxy.port))
        proxy.swallow(3)
        for n in range(9):
            store.append(3, n, 1, b"%d" % n)
        assert [extent.offset for extent in store.extents(3, 0)] == [0, 1, 3, 4, 6, 7]
        assert proxy.swallowed == 3
        store.close()


def test_a_lossy_store_confirms_appends_that_nobody_finds(tmp_path):
    store = Lossy(open_store((tmp_path / "store").as_uri()), every=3)
    for n in range(9):
        store.append(3, n, 1, b"%d" % n)
    assert [extent.offset for extent in store.extents(3, 0)] == [0, 1, 3, 4, 6, 7]
    assert store.dropped == [(3, 2), (3, 5), (3, 8)]


def until_it_succeeds(call):
    """Repeat a call to a store that may take longer than the test allows one, as on a slow disk."""
    while True:
        with contextlib.suppress(StoreUnavailable):
            return call()


def test_no_call_waits_longer_than_its_time_for_a_store_that_is_silent(postgres, seaweed, monkeypatch):
    name = f"s{uuid.uuid4().hex}"
    initialise(postgres.url(name))
    for module in (connections, objects):
        monkeypatch.setattr(module, "REQUEST_S", 0.5)
    for engine in (postgres, seaweed):
        with Proxy(engine.port) as proxy:
            store = open_store(engine.url(name, proxy.port))
            until_it_succeeds(lambda store=store: store.claim(3, 0, 1, b"claim"))
            proxy.stall()
            with pytest.raises(StoreUnavailable):
                store.append(3, 5, 1, b"x")
            proxy.flow()
            until_it_succeeds(lambda store=store: store.append(3, 5, 1, b"x"))
            assert entries(store) == [b"claim", b"x"]
            store.close()
