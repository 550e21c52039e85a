"""The pure part of sending labels and windows: numbers, what is sent again, and what each answer means."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freshet.backlog import Backlog, Verdict
from freshet.errors import Reason, StateLost, TakenOver
from freshet.resume import ProtocolError
from tests.conftest import examples


def opened(next_window: int = 1, most: int = 8, most_bytes: int = 1000) -> Backlog[str]:
    backlog: Backlog[str] = Backlog(most, most_bytes)
    backlog.welcome(next_window)
    return backlog


def filled(backlog: Backlog[str], names: str) -> Backlog[str]:
    """Capital letters are windows."""
    for name in names:
        backlog.add(name, 10, window=name.isupper())
    return backlog


def sent(backlog: Backlog[str]) -> list[tuple[str, int]]:
    """Everything that may go out now, with windows' numbers."""
    out = []
    while (item := backlog.next_to_send()) is not None:
        out.append((item.payload, item.number))
    return out


def test_windows_are_numbered_from_where_the_server_says_and_labels_are_not():
    backlog = filled(opened(next_window=41), "AbC")

    assert sent(backlog) == [("A", 41), ("b", 0), ("C", 42)]
    assert backlog.next_window == 43


def test_nothing_is_sent_before_the_welcome():
    assert sent(filled(Backlog(4, 1000), "ab")) == []


def test_what_is_acknowledged_is_forgotten_in_the_order_of_sending():
    backlog = filled(opened(), "AbC")
    sent(backlog)

    backlog.acknowledged(2)

    assert (len(backlog), backlog.bytes) == (1, 10)
    backlog.disconnected()
    backlog.welcome(2)
    assert sent(backlog) == [("C", 2)]


def test_after_a_reconnect_everything_unacknowledged_goes_out_again_also_what_the_server_may_have():
    backlog = filled(opened(), "AbCD")
    sent(backlog)
    backlog.acknowledged(1)
    backlog.disconnected()

    backlog.welcome(4)  # it has C and D; whether on disk nobody said

    assert sent(backlog) == [("b", 0), ("C", 2), ("D", 3)]
    backlog.acknowledged(3)
    assert len(backlog) == 0


def test_there_is_room_for_so_many_items_and_so_many_bytes():
    assert filled(opened(most=3), "ab").room
    assert not filled(opened(most=3), "abc").room
    assert not filled(opened(most_bytes=15), "ab").room
    backlog = filled(opened(most=3), "abc")
    sent(backlog)
    backlog.acknowledged(1)
    assert backlog.room


def test_a_refused_window_is_dropped_and_those_behind_it_move_up_once_they_have_come_back():
    backlog = filled(opened(), "ABcDE")
    sent(backlog)
    filled(backlog, "F")

    assert backlog.refused(2, Reason.SHAPE)[0] is Verdict.DROP
    assert backlog.next_window == 5
    assert sent(backlog) == [], "D and E are on the wire with numbers that the server will refuse"
    assert backlog.refused(4, Reason.GAP)[0] is Verdict.IGNORE
    assert backlog.refused(5, Reason.GAP)[0] is Verdict.IGNORE

    assert sent(backlog) == [("D", 2), ("E", 3), ("F", 4)]
    backlog.acknowledged(5)
    assert len(backlog) == 0


def test_a_refused_label_moves_nothing():
    backlog = filled(opened(), "AbC")
    sent(backlog)

    verdict, item = backlog.refused(2, Reason.UNKNOWN_TICK)

    assert (verdict, item.payload) == (Verdict.DROP, "b")
    backlog.acknowledged(2)
    assert len(backlog) == 0


def test_a_call_that_is_cut_while_windows_come_back_goes_on_with_all_of_them_in_order():
    backlog = filled(opened(), "ABCDE")
    sent(backlog)
    backlog.refused(2, Reason.SHAPE)
    backlog.refused(3, Reason.GAP)
    backlog.disconnected()

    backlog.welcome(2)

    assert sent(backlog) == [("A", 1), ("C", 2), ("D", 3), ("E", 4)]


def test_a_gap_that_nothing_explains_is_a_disagreement():
    backlog = filled(opened(), "AB")
    sent(backlog)

    assert backlog.refused(2, Reason.GAP)[0] is Verdict.FAIL


def test_a_server_that_lost_acknowledged_windows_is_told_apart_from_another_sender():
    backlog = filled(opened(), "ABC")
    sent(backlog)
    backlog.acknowledged(2)
    backlog.disconnected()

    with pytest.raises(StateLost, match="asks for window 2, but windows before 3 were acknowledged"):
        backlog.welcome(2)
    with pytest.raises(TakenOver, match="asks for window 9, but this sender has sent up to 3"):
        backlog.welcome(9)


def test_answers_that_nothing_asked_for_are_protocol_errors():
    backlog = filled(opened(), "A")
    sent(backlog)

    with pytest.raises(ProtocolError, match="acknowledged 2 items, but 1 were sent"):
        backlog.acknowledged(2)
    with pytest.raises(ProtocolError, match="refused item 7"):
        backlog.refused(7, Reason.SHAPE)


@dataclass
class Server:
    """What Training.Learn does, with a disk that lags behind. Payloads with an x are refused."""

    taken: list[str] = field(default_factory=list)  # windows, in order
    labels: list[str] = field(default_factory=list)
    durable: int = 0  # of `taken`
    durable_labels: int = 0
    answers: deque[tuple[str, int]] = field(default_factory=deque)
    goals: deque[tuple[str, int]] = field(default_factory=deque)  # unacknowledged items of the call
    read: int = 0
    acknowledged: int = 0

    def call(self) -> int:
        self.answers.clear()
        self.goals.clear()
        self.read = self.acknowledged = 0
        return len(self.taken) + 1

    def take(self, payload: str, number: int) -> None:
        self.read += 1
        if number == 0:
            if "x" in payload:
                self.answers.append(("refused unknown", self.read))
                return
            self.labels.append(payload)
            self.goals.append(("label", len(self.labels)))
        elif number > len(self.taken) + 1:
            self.answers.append(("refused gap", self.read))
        elif number <= len(self.taken):
            self.goals.append(("window", len(self.taken)))
        elif "X" in payload:
            self.answers.append(("refused shape", self.read))
        else:
            self.taken.append(payload)
            self.goals.append(("window", number))

    def commit(self) -> None:
        self.durable, self.durable_labels = len(self.taken), len(self.labels)
        while self.goals:
            self.goals.popleft()
            self.acknowledged += 1
        self.answers.append(("acknowledged", self.acknowledged))

    def crash(self) -> None:
        del self.taken[self.durable :]
        del self.labels[self.durable_labels :]


@given(st.integers(0, 2**32))
@examples(300)
def test_whatever_is_refused_cut_or_lost_every_window_is_taken_once_in_order_and_every_label_at_least_once(seed):
    rng, server = random.Random(seed), Server()
    backlog: Backlog[str] = Backlog(12, 10_000)
    given_items: list[str] = []
    refused: list[str] = []
    backlog.welcome(server.call())
    wire: deque[tuple[str, int]] = deque()
    steps = 0
    while len(given_items) < 60 or len(backlog):
        steps += 1
        assert steps < 20_000, "it must come to an end"
        match rng.choice(["add", "send", "read", "read", "answer", "answer", "commit", "cut", "crash"]):
            case "add" if backlog.room and len(given_items) < 60:
                name = rng.choice(["A", "A", "A", "X", "a", "x"]) + str(len(given_items))
                given_items.append(name)
                backlog.add(name, 10, window=name[0].isupper())
            case "send":
                if (item := backlog.next_to_send()) is not None:
                    wire.append((item.payload, item.number))
            case "read" if wire:
                server.take(*wire.popleft())
            case "answer" if server.answers:
                kind, number = server.answers.popleft()
                if kind == "acknowledged":
                    backlog.acknowledged(number)
                    continue
                reason = {"refused gap": Reason.GAP, "refused shape": Reason.SHAPE}.get(kind, Reason.UNKNOWN_TICK)
                verdict, item = backlog.refused(number, reason)
                assert verdict is not Verdict.FAIL
                if verdict is Verdict.DROP:
                    refused.append(item.payload)
            case "commit":
                server.commit()
            case ("cut" | "crash") as how if rng.random() < 0.2:
                if how == "crash":
                    server.crash()
                wire.clear()
                backlog.disconnected()
                backlog.welcome(server.call())
    assert server.taken == [name for name in given_items if name[0] == "A"]
    assert {name for name in given_items if name[0] == "a"} == set(server.labels)
    assert sorted(refused) == sorted(name for name in given_items if name[0] in "Xx")
    assert backlog.bytes == 0
