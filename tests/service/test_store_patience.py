"""Calls of a store that cannot be reached are repeated, and every call is counted."""

import pytest

from service.cluster.store.around import Around
from service.cluster.store.opening import open_store
from service.cluster.store.patience import Call, Metered, repeat
from service.cluster.store.seam import Conflict, Extent, Missing, Store, StoreLost, StoreUnavailable
from service.storage.disk import LONGEST_S


class Failing:
    """Fails `times` times, then answers."""

    def __init__(self, times, error=StoreUnavailable):
        self.left, self.error, self.calls = times, error, 0

    def __call__(self):
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error(f"failure {self.calls}")
        return "answer"


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self, give_up_at=None):
        self.now, self.waits, self.give_up_at = 0.0, [], give_up_at

    def wait(self, seconds):
        self.waits.append(seconds)
        self.now += seconds
        return len(self.waits) == self.give_up_at

    def __call__(self):
        return self.now


def test_a_call_is_repeated_with_doubling_delays_until_it_is_answered():
    seen: list[StoreUnavailable] = []
    call, clock = Failing(8), Clock()
    assert repeat(call, clock.wait, failed=seen.append, clock=clock) == "answer"
    assert clock.waits == [0.05, 0.1, 0.2, 0.4, 0.8, LONGEST_S, LONGEST_S, LONGEST_S]
    assert [str(error) for error in seen] == [f"failure {n}" for n in range(1, 9)]


def test_a_call_is_given_up_after_its_time_and_the_last_error_is_raised():
    call, clock = Failing(1000), Clock()
    with pytest.raises(StoreUnavailable, match="failure 6"):
        repeat(call, clock.wait, give_up_s=2.0, clock=clock)
    assert clock.now <= 2.0


def test_a_call_is_given_up_when_the_wait_says_so():
    call, clock = Failing(1000), Clock(give_up_at=3)
    with pytest.raises(StoreUnavailable, match="failure 3"):
        repeat(call, clock.wait, clock=clock)


@pytest.mark.parametrize("error", [Conflict, Missing, StoreLost, ValueError])
def test_another_error_is_not_repeated(error):
    call = Failing(1, error)
    with pytest.raises(error):
        repeat(call, Clock().wait)
    assert call.calls == 1


@pytest.fixture
def metered(tmp_path):
    calls: list[Call] = []
    store = Metered(open_store((tmp_path / "store").as_uri()), calls.append)
    return store, lambda: [(call.operation, call.size, call.failed) for call in calls]


def test_every_call_is_counted_with_its_bytes(metered):
    store, calls = metered
    store.claim(3, 0, 1, b"claim")
    store.append(3, 5, 1, b"first entry")
    assert list(store.read(3, store.extents(3, 0))) == [b"claim", b"first entry"]
    store.trim(3, 5, frozenset())
    store.put("blob", b"blob")
    store.note("nodes/a", b"a note")
    assert store.get("blob") == b"blob"
    store.list("")
    store.delete(["blob"])
    store.close()
    assert calls() == [
        ("claim", 5, False), ("append", 11, False), ("extents", 0, False), ("read", 5, False), ("read", 11, False),
        ("trim", 0, False), ("put", 4, False), ("note", 6, False), ("get", 4, False), ("list", 0, False),
        ("delete", 0, False),
    ]  # fmt: skip


def test_every_operation_of_the_seam_is_metered(metered):
    store, _ = metered
    operations = {name for name in vars(Store) if not name.startswith("_")} - {"url"}
    assert operations <= vars(Around).keys()
    assert issubclass(Metered, Around)
    assert store.url.startswith("file:///")


def test_a_conflict_and_a_missing_name_are_answers_and_a_loss_is_a_failure(metered):
    store, calls = metered
    store.claim(3, 0, 1, b"claim")
    with pytest.raises(Conflict):
        store.append(3, 0, 1, b"else")
    with pytest.raises(Missing):
        store.get("none")
    with pytest.raises(StoreLost):
        list(store.read(3, [Extent(0, 4)]))
    assert calls()[1:] == [("append", 4, False), ("get", 0, False), ("read", 4, True)]
