"""What to do with a tick, from its number and content alone."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freshet.engine import MAX_IN_FLIGHT
from service.config import ServeConfig
from service.errors import Reason, Refusal
from service.sequence import (
    KEPT_ANSWERS,
    MAX_MAGNITUDE,
    Answer,
    check_values,
    pack_answers,
    payload_digest,
    place,
    unpack_answers,
)


def answer(seq: int, payload: int = 7) -> Answer:
    return Answer(seq, payload, np.full(2, seq, np.float32).tobytes(), version=3, judged_through=seq // 2)


def ring(last: int, kept: int = KEPT_ANSWERS) -> deque[Answer]:
    """The answers of ticks up to `last`, as a stream keeps them."""
    return deque((answer(seq) for seq in range(max(1, last - kept + 1), last + 1)), maxlen=kept)


# --- order


def test_the_next_tick_is_taken():
    assert place(1, 0, 7, deque()) is None
    assert place(6, 5, 7, ring(5)) is None


def test_a_tick_beyond_the_next_is_a_gap_that_names_both_numbers():
    refusal = place(8, 5, 7, ring(5))

    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.field, refusal.value) == (Reason.GAP, "seq", "8")
    assert "6" in refusal.remedy


def test_seq_0_is_refused_even_before_the_first_tick():
    refusal = place(0, 0, 7, deque())

    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.value) == (Reason.GAP, "0")
    assert "begins at 1" in refusal.remedy


def test_a_repeated_tick_is_its_kept_answer():
    answers = ring(5)

    assert place(3, 5, 7, answers) is answers[2]


def test_a_repeated_number_with_another_payload_is_a_conflict_that_names_both():
    refusal = place(3, 5, 0xABC, ring(5))

    assert isinstance(refusal, Refusal)
    assert refusal.reason == Reason.CONFLICT
    assert "00000abc" in refusal.value
    assert "00000007" in refusal.value
    assert "6" in refusal.remedy


def test_a_repeated_tick_whose_answer_is_no_longer_kept_says_that_the_stream_has_advanced():
    refusal = place(1, KEPT_ANSWERS + 1, 7, ring(KEPT_ANSWERS + 1))

    assert isinstance(refusal, Refusal)
    assert refusal.reason == Reason.ANSWER_LOST
    assert str(KEPT_ANSWERS + 2) in refusal.remedy


def test_a_stream_without_any_kept_answer_has_lost_them_all():
    refusal = place(5, 5, 7, deque())

    assert isinstance(refusal, Refusal)
    assert refusal.reason == Reason.ANSWER_LOST


@given(last=st.integers(0, 40), kept=st.integers(1, 20), seq=st.integers(0, 60), payload=st.sampled_from([7, 8]))
def test_every_number_has_exactly_one_place(last: int, kept: int, seq: int, payload: int):
    placed = place(seq, last, payload, ring(last, kept))

    if seq == last + 1:
        assert placed is None
    elif not 1 <= seq <= last:
        assert isinstance(placed, Refusal)
        assert placed.reason == Reason.GAP
    elif seq <= last - kept:
        assert isinstance(placed, Refusal)
        assert placed.reason == Reason.ANSWER_LOST
    elif payload != 7:
        assert isinstance(placed, Refusal)
        assert placed.reason == Reason.CONFLICT
    else:
        assert placed == answer(seq)


# --- content


def check(
    x: list[float], time: float = math.nan, needs_time: bool = False, last_time: float = math.nan
) -> Refusal | None:
    return check_values(4, np.array(x, np.float32), 2, time, needs_time, last_time)


@pytest.mark.parametrize("x", [[0.0, 0.0], [1e15, 0.0], [-1e15, 1e15], [1e-38, -0.0]])
def test_finite_values_up_to_the_largest_are_taken(x):
    assert check(x) is None


@pytest.mark.parametrize(
    ("x", "reason", "field"),
    [
        ([], Reason.SHAPE, "x"),
        ([1.0], Reason.SHAPE, "x"),
        ([1.0, 1.0, 1.0], Reason.SHAPE, "x"),
        ([math.nan, 1.0], Reason.NON_FINITE, "x[0]"),
        ([1.0, math.inf], Reason.NON_FINITE, "x[1]"),
        ([-math.inf, math.nan], Reason.NON_FINITE, "x[0]"),
        ([math.inf, -math.inf], Reason.NON_FINITE, "x[0]"),
        ([1.0, 1.1e15], Reason.TOO_LARGE, "x[1]"),
        ([-3e38, 1.0], Reason.TOO_LARGE, "x[0]"),
    ],
    ids=str,
)
def test_other_values_are_refused_by_channel(x, reason, field):
    refusal = check(x)

    assert refusal is not None
    assert (refusal.seq, refusal.reason, refusal.field) == (4, reason, field)
    assert refusal.value
    assert refusal.remedy


@given(st.lists(st.floats(width=32), min_size=2, max_size=2))
def test_values_are_refused_exactly_where_one_is_not_finite_or_too_large(x: list[float]):
    bad = [i for i, value in enumerate(x) if not abs(value) <= MAX_MAGNITUDE]  # also true for NaN

    refusal = check(x)

    assert (refusal.field if refusal else None) == (f"x[{bad[0]}]" if bad else None)


@pytest.mark.parametrize("time", [math.nan, 0.0, -1e9, 1e12])
def test_a_model_without_interval_takes_any_sensible_time_or_none(time):
    assert check([1.0, 1.0], time) is None


@pytest.mark.parametrize(
    ("time", "last_time", "needs_time"),
    [
        (math.nan, math.nan, True),
        (math.inf, math.nan, False),
        (-math.inf, math.nan, True),
        (1.1e12, math.nan, False),
        (5.0, 5.0, False),
        (4.0, 5.0, True),
    ],
)
def test_a_time_that_cannot_be_is_refused(time, last_time, needs_time):
    refusal = check([1.0, 1.0], time, needs_time, last_time)

    assert refusal is not None
    assert (refusal.reason, refusal.field) == (Reason.TIME, "time")
    assert refusal.remedy


# --- digests and packing


def test_the_digest_tells_values_and_times_apart():
    x = np.array([1.0, 2.0], np.float32)
    digests = {
        payload_digest(x, math.nan),
        payload_digest(x, 0.0),
        payload_digest(x[::-1].copy(), math.nan),
        payload_digest(x[:1], math.nan),
        payload_digest(np.array([1.0, 2.0000002], np.float32), math.nan),
    }

    assert len(digests) == 5
    assert payload_digest(x.copy(), math.nan) == payload_digest(x, math.nan)


def test_answers_come_back_from_their_bytes():
    answers = ring(5)

    assert unpack_answers(pack_answers(answers), outputs=2) == answers
    assert unpack_answers(pack_answers(deque()), outputs=2) == deque()


def test_bytes_of_another_width_are_no_answers():
    with pytest.raises(ValueError, match="not a multiple"):
        unpack_answers(pack_answers(ring(5)), outputs=3)


def test_a_stream_keeps_an_answer_for_every_tick_that_a_client_may_send_again():
    assert ServeConfig(max_undurable=KEPT_ANSWERS).max_undurable >= MAX_IN_FLIGHT
    with pytest.raises(ValueError, match="max_undurable"):
        ServeConfig(max_undurable=KEPT_ANSWERS + 1)
