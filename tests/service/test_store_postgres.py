"""The store in PostgreSQL: its tables, the epoch in every statement, and commits that are durable or not confirmed."""

import threading
import uuid

import psycopg
import pytest

from service.cluster.store import postgres as backend
from service.cluster.store import schema
from service.cluster.store.connections import CONNECTIONS
from service.cluster.store.opening import open_store
from service.cluster.store.postgres import initialise
from service.cluster.store.seam import Conflict, Extent, StoreRefused, StoreUnavailable
from tests.engines.postgres import ROLE


@pytest.fixture
def url(postgres):
    return postgres.url(f"s{uuid.uuid4().hex}")


@pytest.fixture
def store(url):
    initialise(url)
    store = open_store(url)
    yield store
    store.close()


def name_of(url):
    return url.partition("schema=")[2]


def direct(url, statement):
    with psycopg.connect(url.partition("?")[0], autocommit=True) as connection:
        connection.execute(statement.replace("SCHEMA", name_of(url)).encode())


def test_a_database_without_the_tables_is_refused_until_they_are_made(url):
    with pytest.raises(StoreRefused, match="has no tables of freshet; run: freshet store init URL"):
        open_store(url)
    assert initialise(url) == list(range(schema.FORMAT))
    assert initialise(url) == []
    open_store(url).close()


def test_the_role_of_a_store_is_no_superuser_and_the_tables_are_its_own(store, url):
    with psycopg.connect(url.partition("?")[0]) as connection:
        row = connection.execute("SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user").fetchone()
        assert row == (False,)
        owners = connection.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = %s", (name_of(url),))
        assert owners.fetchall() == [(ROLE,)]


def test_tables_of_another_format_are_refused_with_the_remedy(store, url, monkeypatch):
    direct(url, "UPDATE SCHEMA.format SET number = 99")
    with pytest.raises(StoreRefused, match="format 99; this version of freshet knows format 1: run the version"):
        open_store(url)
    with pytest.raises(StoreRefused, match="format 99"):
        initialise(url)


def test_older_tables_are_refused_until_they_are_migrated_and_keep_their_entries(store, url, monkeypatch):
    store.claim(3, 0, 1, b"claim")
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "CREATE TABLE {schema}.more (x integer)"))
    monkeypatch.setattr(schema, "FORMAT", 2)
    with pytest.raises(StoreRefused, match="format 1, older than 2; run: freshet store init"):
        open_store(url)
    assert initialise(url) == [1]
    newer = open_store(url)
    assert list(newer.read(3, newer.extents(3, 0))) == [b"claim"]
    newer.close()


def test_a_failed_migration_changes_nothing(store, url, monkeypatch):
    monkeypatch.setattr(
        schema, "MIGRATIONS", (*schema.MIGRATIONS, "CREATE TABLE {schema}.more (x integer); SELECT 1/0")
    )
    monkeypatch.setattr(schema, "FORMAT", 2)
    with pytest.raises(StoreRefused, match="division by zero"):
        initialise(url)
    monkeypatch.undo()
    open_store(url).close()


def test_two_that_make_the_tables_at_once_wait_for_each_other(url):
    steps: list[list[int]] = []
    threads = []
    for _ in range(4):
        threads.append(threading.Thread(target=lambda: steps.append(list(initialise(url)))))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert sorted(steps) == [[], [], [], [0]]


def test_an_epoch_that_is_not_the_shards_conflicts_at_any_offset(store):
    with pytest.raises(Conflict, match="epoch 1 is not the shard's"):
        store.append(3, 0, 1, b"without a claim")
    store.claim(3, 0, 1, b"claim 1")
    store.claim(3, 7, 2, b"claim 2")
    for offset in (14, 1000):
        with pytest.raises(Conflict):
            store.append(3, offset, 1, b"of a former owner")
    for epoch in (1, 2):
        with pytest.raises(Conflict, match=f"epoch is {epoch} or more"):
            store.claim(3, 14, epoch, b"claim again")
    assert store.extents(3, 0) == [Extent(0, 7), Extent(7, 7)]


def test_a_claim_at_an_offset_that_was_trimmed_conflicts_and_leaves_the_owner_its_shard(store):
    """As of a node that slept after it had read where the journal ended."""
    store.claim(3, 0, 1, b"claim 1")
    store.append(3, 7, 1, b"trimmed")
    store.append(3, 14, 1, b"kept")
    store.trim(3, 14, {0})
    with pytest.raises(Conflict, match="shard 3 has entries from offset 7 on"):
        store.claim(3, 7, 2, b"claim 2")
    store.append(3, 18, 1, b"of the owner")


def test_an_append_and_a_claim_that_race_for_an_offset_have_one_winner(url):
    initialise(url)
    stores = [open_store(url) for _ in range(2)]
    for shard in range(20):
        stores[0].claim(shard, 0, 1, b"claim")
        together = threading.Barrier(2)
        lost: list[str] = []

        def run(call, who, lost=lost, together=together):
            together.wait()
            try:
                call()
            except Conflict:
                lost.append(who)

        threads = [
            threading.Thread(target=run, args=(lambda s=shard: stores[0].append(s, 5, 1, b"last"), "owner")),
            threading.Thread(target=run, args=(lambda s=shard: stores[1].claim(s, 5, 2, b"claim 2"), "claimant")),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = list(stores[0].read(shard, stores[0].extents(shard, 0)))
        assert (lost, found) in [(["owner"], [b"claim", b"claim 2"]), (["claimant"], [b"claim", b"last"])]
    for store in stores:
        store.close()


def test_an_append_that_meets_a_claim_in_its_transaction_waits_for_it(store, url, postgres):
    """Otherwise an append that began before the claim could end after it, at another offset."""
    store.claim(3, 0, 1, b"claim")
    conflicts = []

    def append():
        try:
            store.append(3, 1000, 1, b"late")
        except Conflict as error:
            conflicts.append(error)

    late = threading.Thread(target=append)
    with psycopg.connect(url.partition("?")[0]) as claiming:
        claiming.execute(f"UPDATE {name_of(url)}.shards SET epoch = 2 WHERE shard = 3".encode())
        late.start()
        postgres.until_waiting_for_a_lock(lambda: not late.is_alive())
    late.join()
    assert len(conflicts) == 1
    assert store.extents(3, 0) == [Extent(0, 5)]


def test_messages_and_the_url_do_not_have_the_password(store, url, postgres):
    password = url.partition(f"{ROLE}:")[2].partition("@")[0]
    assert password not in store.url
    assert store.url.startswith(f"postgresql://{ROLE}@127.0.0.1")
    for wrong in (url.replace(password, "wrong"), url.replace("/freshet?", "/none?"), postgres.url("No")):
        with pytest.raises(StoreRefused) as caught:
            open_store(wrong)
        assert password not in str(caught.value)
        assert "wrong" not in str(caught.value)


def test_a_server_that_does_not_sync_is_refused(store, url, postgres):
    postgres.as_owner("ALTER SYSTEM SET fsync = off")
    try:
        postgres.as_owner("SELECT pg_reload_conf()")
        postgres.until("fsync", "off")
        with pytest.raises(StoreRefused, match="fsync is off: what it confirms could be lost; set fsync = on"):
            open_store(url)
    finally:
        postgres.as_owner("ALTER SYSTEM RESET fsync")
        postgres.as_owner("SELECT pg_reload_conf()")
        postgres.until("fsync", "on")


def test_a_role_that_does_not_wait_for_the_disk_is_made_to_wait(store, url, postgres):
    postgres.as_owner(f"ALTER ROLE {ROLE} SET synchronous_commit = off")
    try:
        other = backend.Postgres(url)
        with other._connections.taken() as connection:
            assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
        other.close()
    finally:
        postgres.as_owner(f"ALTER ROLE {ROLE} RESET synchronous_commit")


def test_a_commit_that_no_standby_has_confirmed_is_not_confirmed_to_us_either(store, url, postgres):
    """A wait that is cancelled leaves the commit on this server only, and PostgreSQL calls that a success."""
    store.claim(3, 0, 1, b"claim")
    postgres.as_owner("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (nobody)'")
    try:
        postgres.as_owner("SELECT pg_reload_conf()")
        postgres.until("synchronous_standby_names", "ANY 1 (nobody)")
        for _ in range(2):  # the second finds the row, and must wait as the first
            cancelling = threading.Thread(target=postgres.cancel_waiting)
            cancelling.start()
            with pytest.raises(StoreUnavailable, match="canceling wait for synchronous replication"):
                store.append(3, 5, 1, b"x")
            cancelling.join()
    finally:
        postgres.as_owner("ALTER SYSTEM RESET synchronous_standby_names")
        postgres.as_owner("SELECT pg_reload_conf()")
        postgres.until("synchronous_standby_names", "")
    store.append(3, 5, 1, b"x")
    assert list(store.read(3, store.extents(3, 0))) == [b"claim", b"x"]


def test_more_threads_than_connections_take_turns(store):
    store.claim(3, 0, 1, b"claim")
    threads = [
        threading.Thread(target=store.put, args=(f"blob{n}", b"%d" % n)) for n in range(4 * CONNECTIONS)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.list("blob")) == 4 * CONNECTIONS
    assert len(store._connections._idle) <= CONNECTIONS


def test_entries_are_read_in_parts_of_bounded_size(monkeypatch):
    monkeypatch.setattr(backend, "READ_BYTES", 10)
    monkeypatch.setattr(backend, "READ_ROWS", 3)
    sizes = [4, 4, 4, 20, 1, 1, 1, 1]
    parts = backend._parts([Extent(n, size) for n, size in enumerate(sizes)])
    assert [[extent.size for extent in part] for part in parts] == [[4, 4], [4], [20], [1, 1, 1], [1]]
    assert list(backend._parts([])) == []


@pytest.mark.parametrize(
    ("condition", "mutation", "accepted"),
    [
        ("AND epoch = %(epoch)s FOR SHARE", "", (1000, b"late")),
        ("DO NOTHING", '(shard, "offset") DO UPDATE SET data = excluded.data', (0, b"else!!!")),
    ],
    ids=["no epoch", "overwrites"],
)
def test_an_append_without_one_of_its_conditions_would_be_accepted(store, monkeypatch, condition, mutation, accepted):
    """So the tests above are red without it."""
    store.claim(3, 0, 1, b"claim 1")
    store.claim(3, 7, 2, b"claim 2")
    offset, data = accepted
    epoch = 1 if offset else 2
    with pytest.raises(Conflict):
        store.append(3, offset, epoch, data)
    monkeypatch.setattr(backend, "APPEND", backend.APPEND.replace(condition, mutation))
    store.append(3, offset, epoch, data)
