"""The pure part: what to send, what to send again, and what each answer means."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freshet.errors import Reason, StateLost, TakenOver
from freshet.resume import RESET, Action, Entry, Outbox, ProtocolError, Reset
from freshet.retry import LONGEST_S, Backoff
from tests.conftest import examples


def opened(next_seq: int = 1, durable: int = 0, in_flight: int = 8, max_undurable: int = 0) -> Outbox[str]:
    outbox: Outbox[str] = Outbox(in_flight)
    outbox.welcome(next_seq, durable, 0, max_undurable)
    return outbox


def sent(outbox: Outbox[str]) -> list[tuple[int, str] | str]:
    """Everything that may go out now."""
    out: list[tuple[int, str] | str] = []
    while (item := outbox.next_to_send()) is not None:
        out.append("reset" if isinstance(item, Reset) else (item.seq, item.payload))
    return out


def filled(outbox: Outbox[str], names: str) -> Outbox[str]:
    for name in names:
        outbox.append(name)
    return outbox


def test_a_new_client_starts_at_the_seq_that_the_server_asks_for():
    outbox = filled(opened(next_seq=41, durable=40), "a")

    assert sent(outbox) == [(41, "a")]


def test_nothing_is_sent_before_the_welcome():
    assert sent(filled(Outbox(4), "ab")) == []


def test_unanswered_ticks_are_sent_again_after_a_reconnect():
    outbox = filled(opened(), "abc")
    sent(outbox)
    outbox.forecast(1, 0)
    outbox.disconnected()

    outbox.welcome(4, 3, 0, 0)  # the server took all three, two answers were on the way

    assert sent(outbox) == [(2, "b"), (3, "c")]


def test_answered_ticks_that_were_not_durable_are_sent_again_and_not_answered_twice():
    outbox = filled(opened(), "abc")
    sent(outbox)
    assert [outbox.forecast(seq, 0) for seq in (1, 2, 3)] == ["a", "b", "c"]
    outbox.durable_through(1, 0)
    outbox.disconnected()

    outbox.welcome(2, 1, 0, 0)

    assert sent(outbox) == [(2, "b"), (3, "c")]
    assert [outbox.forecast(seq, 0) for seq in (2, 3)] == [None, None]


def test_durable_ticks_are_no_longer_kept_and_asking_for_them_is_lost_state():
    outbox = filled(opened(), "abc")
    sent(outbox)
    for seq in (1, 2, 3):
        outbox.forecast(seq, 0)
    outbox.durable_through(2, 0)
    outbox.disconnected()

    with pytest.raises(StateLost, match="tick 2, but ticks before 3"):
        outbox.welcome(2, 1, 0, 0)


def test_a_stream_that_another_client_has_advanced_is_taken_over():
    outbox = filled(opened(), "a")
    outbox.disconnected()

    with pytest.raises(TakenOver, match="asks for tick 9"):
        outbox.welcome(9, 8, 0, 0)


def test_a_refused_tick_is_dropped_and_the_later_ones_move_up():
    outbox = filled(opened(), "abcd")
    sent(outbox)
    outbox.forecast(1, 0)

    assert outbox.refused(2, Reason.SHAPE) == (Action.DROP, "b")
    assert sent(outbox) == [(2, "c"), (3, "d")]
    assert outbox.refused(3, Reason.GAP) == (Action.IGNORE, None)
    assert outbox.refused(4, Reason.GAP) == (Action.IGNORE, None)
    assert [outbox.forecast(seq, 0) for seq in (2, 3)] == ["c", "d"]
    assert outbox.next_seq == 4


def test_two_refused_ticks_in_flight_are_told_apart():
    outbox = filled(opened(), "abc")
    sent(outbox)

    assert outbox.refused(1, Reason.TIME) == (Action.DROP, "a")
    assert sent(outbox) == [(1, "b"), (2, "c")]
    assert [outbox.refused(seq, Reason.GAP)[0] for seq in (2, 3)] == [Action.IGNORE] * 2
    assert outbox.refused(1, Reason.TIME) == (Action.DROP, "b")
    assert outbox.refused(2, Reason.GAP) == (Action.IGNORE, None)
    assert sent(outbox) == [(1, "c")]


@pytest.mark.parametrize("reason", [Reason.GAP, Reason.CONFLICT])
def test_a_gap_or_a_conflict_that_follows_no_refusal_ends_the_stream(reason):
    outbox = filled(opened(), "a")
    sent(outbox)

    assert outbox.refused(1, reason) == (Action.FAIL, "a")


def test_an_overloaded_server_is_sent_the_same_tick_after_the_next_durable():
    outbox = filled(opened(), "abc")
    sent(outbox)
    outbox.forecast(1, 0)
    outbox.refused(2, Reason.OVERLOADED)
    outbox.refused(3, Reason.OVERLOADED)
    assert sent(outbox) == []

    outbox.durable_through(1, 0)

    assert sent(outbox) == [(2, "b"), (3, "c")]


def test_a_lost_answer_counts_as_answered():
    outbox = filled(opened(), "ab")
    sent(outbox)
    outbox.disconnected()
    outbox.welcome(3, 2, 0, 0)
    sent(outbox)

    assert outbox.refused(1, Reason.ANSWER_LOST) == (Action.LOST, "a")
    assert outbox.forecast(2, 0) == "b"


def test_ticks_on_the_wire_and_not_on_disk_are_bounded():
    outbox = filled(opened(in_flight=2, max_undurable=3), "abcde")

    assert sent(outbox) == [(1, "a"), (2, "b")]
    outbox.forecast(1, 0)
    outbox.forecast(2, 0)
    assert sent(outbox) == [(3, "c")]
    outbox.durable_through(1, 0)
    assert sent(outbox) == [(4, "d")]


def test_a_tick_waits_until_labels_are_judged_close_enough_to_it():
    outbox = opened()
    for name in "abcd":
        outbox.append(name, max_staleness=2)

    assert sent(outbox) == [(1, "a"), (2, "b")]
    outbox.durable_through(2, 1)
    assert sent(outbox) == [(3, "c")]


def test_a_reset_goes_out_in_its_place_once_everything_before_it_is_answered():
    outbox = filled(opened(), "a")
    outbox.reset()
    outbox.append("b")

    assert sent(outbox) == [(1, "a")]
    outbox.forecast(1, 0)
    assert sent(outbox) == ["reset", (2, "b")]


def test_a_reset_stays_between_the_same_ticks_when_an_earlier_one_is_refused():
    outbox = filled(opened(), "ab")
    outbox.reset()
    outbox.append("c")
    sent(outbox)

    outbox.refused(1, Reason.SHAPE)
    assert sent(outbox) == [(1, "b")]
    outbox.refused(2, Reason.GAP)
    outbox.forecast(1, 0)
    assert sent(outbox) == ["reset", (2, "c")]


def test_ticks_that_were_answered_are_sent_again_without_waiting_for_judgement():
    outbox = opened()
    outbox.append("a", max_staleness=1)
    sent(outbox)
    outbox.forecast(1, 0)
    outbox.durable_through(0, 1)
    outbox.append("b", max_staleness=1)
    sent(outbox)
    outbox.forecast(2, 1)
    outbox.disconnected()

    outbox.welcome(1, 0, 0, 0)

    assert sent(outbox) == [(1, "a"), (2, "b")]


@pytest.mark.parametrize(("next_seq", "again"), [(3, [(2, "b")]), (2, ["reset", (2, "b")])])
def test_a_reset_is_sent_again_unless_the_server_has_the_tick_behind_it(next_seq, again):
    outbox = filled(opened(), "a")
    outbox.reset()
    outbox.append("b")
    sent(outbox)
    outbox.forecast(1, 0)
    sent(outbox)
    outbox.disconnected()

    outbox.welcome(next_seq, 1, 0, 0)

    assert sent(outbox) == again


def test_an_answer_that_nobody_asked_for_is_an_error():
    outbox = filled(opened(), "ab")
    sent(outbox)

    with pytest.raises(ProtocolError, match="answered tick 2"):
        outbox.forecast(2, 0)


def test_ticks_that_were_never_sent_can_be_dropped():
    outbox = filled(opened(in_flight=2), "abcd")
    sent(outbox)

    assert outbox.discard_unsent() == ["c", "d"]
    assert outbox.next_seq == 3


def test_waits_double_up_to_a_bound_and_end_after_the_time_allowed():
    backoff = Backoff(10.0, random.Random(0))
    waits = [backoff.failed(float(now)) for now in range(11)]

    assert waits[-1] is None
    for number, wait in enumerate(waits[:-1]):
        assert wait is not None
        longest = min(LONGEST_S, 0.05 * 2**number)
        assert longest / 2 <= wait <= longest


def test_a_success_starts_the_waits_anew():
    backoff = Backoff(10.0, random.Random(0))
    backoff.failed(0.0)
    backoff.succeeded()

    assert backoff.failed(100.0) is not None


class Model:
    """A server and its wires, reduced to what the protocol promises. A forecast is the tuple of all it depends on."""

    def __init__(self, bad: set[int], ring: int) -> None:
        self.bad, self.ring = bad, ring
        self.taken: list[int] = []
        self.resets: set[int] = set()
        self.durable = 0
        self.up: deque[tuple[int, int] | None] = deque()  # (seq, payload); None is a Reset
        self.down: deque[tuple[str, int, object]] = deque()
        self.full = False

    def history(self, seq: int) -> tuple[int, ...]:
        start = max((at for at in self.resets if at <= seq), default=1)
        return tuple(self.taken[start - 1 : seq])

    def receive(self) -> None:
        if not self.up:
            return
        item = self.up.popleft()
        if item is None:
            self.resets.add(len(self.taken) + 1)
            return
        seq, payload = item
        expected = len(self.taken) + 1
        if seq < expected:
            assert self.taken[seq - 1] == payload, "a repeated seq with another payload"
            lost = seq <= expected - 1 - self.ring
            self.down.append(("refused", seq, Reason.ANSWER_LOST) if lost else ("forecast", seq, self.history(seq)))
        elif seq > expected:
            self.down.append(("refused", seq, Reason.GAP))
        elif self.full:
            self.down.append(("refused", seq, Reason.OVERLOADED))
        elif payload in self.bad:
            self.down.append(("refused", seq, Reason.SHAPE))
        else:
            self.taken.append(payload)
            self.down.append(("forecast", seq, self.history(seq)))

    def commit(self) -> None:
        self.durable = len(self.taken)
        self.down.append(("durable", self.durable, None))

    def crash(self, keep: int) -> None:
        del self.taken[max(self.durable, keep) :]
        last = len(self.taken) + keep % 2  # a Reset behind the last tick may be on disk, or not
        self.resets = {at for at in self.resets if at <= last}
        self.up.clear()
        self.down.clear()


class Client:
    """Drives an Outbox against a Model and notes each outcome that the user gets."""

    def __init__(self, model: Model) -> None:
        self.model, self.outbox = model, Outbox[int](in_flight=3)
        self.outcomes: list[tuple[int, object]] = []
        self.connect()

    def connect(self) -> None:
        self.outbox.disconnected()
        self.outbox.welcome(len(self.model.taken) + 1, self.model.durable, 0, 5)

    def send(self) -> None:
        item = self.outbox.next_to_send()
        if item is RESET:
            self.model.up.append(None)
        elif isinstance(item, Entry):
            self.model.up.append((item.seq, item.payload))

    def flow(self) -> None:
        for _ in range(12):
            self.send()
            self.model.receive()
            self.read()

    def read(self) -> None:
        if not self.model.down:
            return
        kind, seq, detail = self.model.down.popleft()
        if kind == "durable":
            self.outbox.durable_through(seq, 0)
        elif kind == "forecast":
            payload = self.outbox.forecast(seq, 0)
            if payload is not None:
                self.outcomes.append((payload, detail))
        else:
            assert isinstance(detail, Reason)
            action, payload = self.outbox.refused(seq, detail)
            assert action is not Action.FAIL
            if payload is not None:
                self.outcomes.append((payload, action))


# append a, send s, receive r, read d, flow p (all three until nothing moves), commit c, reset k, crash x, overload o/f
EVENTS = st.lists(st.sampled_from("aaaassrrddppckxof"), min_size=10, max_size=80)


@examples(500)
@given(events=EVENTS, bad=st.sets(st.integers(0, 12), max_size=5), keep=st.integers(0, 6), ring=st.integers(1, 50))
def test_any_interleaving_gives_each_tick_one_outcome_in_order_and_the_state_of_an_unbroken_run(
    events, bad, keep, ring
):
    model = Model(bad, ring)
    client = Client(model)
    added: list[int] = []
    resets: list[int] = []  # a Reset before the n-th added tick
    for event in events:
        if event == "a":
            client.outbox.append(len(added))
            added.append(len(added))
        elif event == "k":
            client.outbox.reset()
            resets.append(len(added))
        elif event == "x":
            model.crash(keep)
            client.connect()
        elif event in "of":
            model.full = event == "o"
            client.outbox.release()
        else:
            {"s": client.send, "r": model.receive, "d": client.read, "p": client.flow, "c": model.commit}[event]()
    model.full = False
    for _ in range(2000):  # let it settle
        client.outbox.release()
        for act in (client.send, model.receive, model.commit, client.read, client.read):
            act()
        if client.outbox.quiet and client.outbox.durable == client.outbox.next_seq - 1:
            break

    assert client.outbox.quiet
    assert [payload for payload, _ in client.outcomes] == added
    assert model.taken == [payload for payload in added if payload not in bad]
    for payload, outcome in client.outcomes:
        start = max((at for at in resets if at <= payload), default=0)
        unbroken = tuple(p for p in added[start : payload + 1] if p not in bad)
        assert outcome in ((Action.DROP,) if payload in bad else (unbroken, Action.LOST))
        if payload not in bad:
            assert payload in model.taken
