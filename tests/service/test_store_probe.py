"""The probe lets good stores pass, and refuses stores that break one promise each, by its name."""

import uuid
from typing import Any

import pytest
from typer.testing import CliRunner

from service.cli.main import app
from service.cluster.store.opening import open_store
from service.cluster.store.postgres import initialise
from service.cluster.store.probe import probe, steps
from service.cluster.store.seam import Conflict, Extent, Missing, StoreRefused, StoreUnavailable

ENGINES = ["directory", "objects", "postgres"]


def an_empty_store(request, tmp_path):
    name = f"s{uuid.uuid4().hex}"
    if request.param == "directory":
        return (tmp_path / name).as_uri()
    engine = request.getfixturevalue("seaweed" if request.param == "objects" else "postgres")
    return engine.url(name)


@pytest.fixture(params=ENGINES)
def url(request, tmp_path):
    return an_empty_store(request, tmp_path)


@pytest.fixture
def store(tmp_path):
    return open_store((tmp_path / "store").as_uri())


def test_a_good_store_passes_and_the_probe_leaves_nothing_behind(url):
    if url.startswith("postgresql"):
        initialise(url)
    opened, other, advanced = open_store(url), open_store(url), []
    found = probe(opened, (5, 2), other, lambda: advanced.append(1))
    assert (found.races, found.stale) == (6, 2)
    assert len(advanced) == steps(5)
    assert {latency.operation for latency in found.latencies()} == {"append", "put", "get", "list"}
    assert all(0 < latency.p50_s <= latency.p99_s for latency in found.latencies())
    assert opened.list("") == []
    opened.close()
    other.close()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_good_store_has_one_winner_in_every_one_of_many_races(url):
    if url.startswith("postgresql"):
        initialise(url)
    store = open_store(url)
    assert probe(store, (50, 8)).races == 60
    store.close()


class Mutant:
    """A store that breaks a promise; everything else is another's."""

    def __init__(self, store):
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class CreatesAlways(Mutant):
    """Ignores the condition, as three products did in 2026: the last writer wins."""

    def append(self, shard, offset, epoch, data):
        try:
            self._store.append(shard, offset, epoch, data)
        except Conflict:
            self._store._entry(shard, offset).write_bytes(data)


class ClaimsAlways(Mutant):
    def claim(self, shard, offset, epoch, data):
        try:
            self._store.claim(shard, offset, epoch, data)
        except Conflict:
            self._store._entry(shard, offset).write_bytes(data)


class ConfirmsAlways(Mutant):
    """Keeps the first writer's bytes, and tells the others that theirs are there."""

    def append(self, shard, offset, epoch, data):
        try:
            self._store.append(shard, offset, epoch, data)
        except Conflict:
            return


class RefusesAll(Mutant):
    """Refuses even the writer whose bytes it keeps."""

    def append(self, shard, offset, epoch, data):
        self._store.append(shard, offset, epoch, data)
        raise Conflict("taken")


class ListsLate(Mutant):
    def __init__(self, store):
        super().__init__(store)
        self._earlier: dict[int, list[Extent]] = {}

    def extents(self, shard, start):
        seen = self._store.extents(shard, 0)
        known, self._earlier[shard] = self._earlier.get(shard, []), seen
        return [extent for extent in known if extent.offset >= start]


class ListsBlobsLate(Mutant):
    def list(self, prefix):
        return self._store.list(prefix)[:-1]


class AcceptsStaleEpochs(Mutant):
    """Lets a former owner write over the claim of its successor."""

    def __init__(self, store):
        super().__init__(store)
        self._newest = 0

    def claim(self, shard, offset, epoch, data):
        self._store.claim(shard, offset, epoch, data)
        self._newest = max(self._newest, epoch)

    def append(self, shard, offset, epoch, data):
        if epoch == self._newest:
            self._store.append(shard, offset, epoch, data)


class ForgetsClaims(Mutant):
    """Trims claims too, so that nothing stands in a former owner's way."""

    def trim(self, shard, before, keep):
        return self._store.trim(shard, before + 1, frozenset())


class LosesOneInTen(Mutant):
    def __init__(self, store):
        super().__init__(store)
        self._count = 0

    def append(self, shard, offset, epoch, data):
        self._count += 1
        if self._count % 10:
            self._store.append(shard, offset, epoch, data)


class ReadsOldNotes(Mutant):
    def note(self, name, data):
        if not self._store.list(name):
            self._store.note(name, data)


class OverwritesBlobs(Mutant):
    def put(self, name, data):
        self._store.note(name, data)


class LosesBlobs(Mutant):
    def get(self, name):
        raise Missing(name)


BROKEN = {
    CreatesAlways: "conditional create does not hold: [2-8] of 8 writers that raced to append were confirmed",
    ClaimsAlways: "conditional create does not hold: [2-8] of 8 writers that raced to claim were confirmed",
    ConfirmsAlways: "conditional create does not hold: 8 of 8 writers",
    RefusesAll: "conditional create does not hold: 0 of 8 writers",
    ListsLate: "listing does not hold: an acknowledged entry is not listed; none are",
    ListsBlobsLate: "listing does not hold: an acknowledged blob is not listed",
    AcceptsStaleEpochs: "fence does not hold: an append of a former owner was accepted",
    ForgetsClaims: "fence does not hold: an append of a former owner was accepted",
    LosesOneInTen: "does not hold",
    ReadsOldNotes: "reading does not hold: a read returned other bytes",
    OverwritesBlobs: "conditional create does not hold: a blob was overwritten",
    LosesBlobs: "reading does not hold: an acknowledged blob is missing",
}


@pytest.mark.parametrize("mutant", BROKEN, ids=lambda mutant: mutant.__name__)
def test_a_store_that_breaks_a_promise_is_refused_with_what_was_seen_and_the_remedy(store, mutant):
    with pytest.raises(StoreRefused, match=f"{BROKEN[mutant]}.*; nodes that share this store could lose") as caught:
        probe(mutant(store), (10, 8))
    assert str(caught.value).startswith("file:///")


def test_a_store_that_another_connection_does_not_see_is_refused(tmp_path, store):
    with pytest.raises(StoreRefused, match="listing does not hold"):
        probe(store, other=open_store((tmp_path / "another").as_uri()))


def test_a_store_that_is_gone_is_unavailable(store, monkeypatch):
    class Gone(Mutant):
        def claim(self, *entry):
            raise StoreUnavailable("gone")

    monkeypatch.setattr("service.cluster.store.probe.GIVE_UP_S", 0.0)
    with pytest.raises(StoreUnavailable, match="gone"):
        probe(Gone(store))


def test_two_probes_of_one_store_do_not_meet(store):
    for _ in range(3):
        probe(store)
    assert store.list("") == []


# --- the command


def run(*arguments, **environment):
    return CliRunner().invoke(app, ["store", *arguments], env=environment)


def test_init_makes_a_store_and_check_says_how_fast_it_is(url):
    made = run("init", url)
    assert made.exit_code == 0, made.output
    assert ": ready" in made.stdout
    assert run("init", url).stdout.strip().endswith(("ready", "nothing to do"))
    checked = run("check", "--rounds", "3", "--writers", "2", FRESHET_STORE=url)
    assert checked.exit_code == 0, checked.output
    assert "append" in checked.stdout
    assert "passed: 3 races, each with one winner; 2 writes of a former owner, all refused" in checked.stdout
    assert "check: step 6 of 6" in checked.stderr


def test_check_refuses_a_store_that_is_not_ready_with_the_remedy(postgres):
    checked = run("check", postgres.url(f"s{uuid.uuid4().hex}"))
    assert checked.exit_code == 1
    assert "run: freshet store init URL" in checked.stderr


def test_check_ends_with_1_when_a_store_breaks_a_promise(tmp_path, monkeypatch):
    monkeypatch.setattr("service.cluster.store.directory.Directory.note", lambda self, *note: None)
    checked = run("check", (tmp_path / "store").as_uri(), "--rounds", "1")
    assert checked.exit_code == 1
    assert "reading does not hold: an acknowledged blob is missing" in checked.stderr
