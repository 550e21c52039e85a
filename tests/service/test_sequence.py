"""Decisions on a tick, from its number and content alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freshet.engine import MAX_IN_FLIGHT
from service.common.errors import Reason, Refusal
from service.common.limits import MAX_MAGNITUDE
from service.server.config import ServeConfig
from service.streams.answers import KEPT_ANSWERS, Answer
from service.streams.sequence import check_values, latest_time, payload_digest, place, sound_ticks

X, TIME = np.array([7.0], np.float32), 5.0
OTHER = np.array([8.0], np.float32)


def answer(seq: int) -> Answer:
    return Answer(seq, TIME, X.tobytes(), np.full(2, seq, np.float32).tobytes(), version=3, judged_through=seq // 2)


def ring(last: int, kept: int = KEPT_ANSWERS) -> Callable[[int], Answer | None]:
    """Return a lookup of answers of ticks up to `last`."""
    return {seq: answer(seq) for seq in range(max(1, last - kept + 1), last + 1)}.get


def none(seq: int) -> None:
    return None


# --- order


def test_the_next_tick_is_taken():
    assert place(1, 0, X, TIME, none) is None
    assert place(6, 5, X, TIME, ring(5)) is None


def test_a_tick_beyond_the_next_is_a_gap_that_names_both_numbers():
    refusal = place(8, 5, X, TIME, ring(5))

    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.field, refusal.value) == (Reason.GAP, "seq", "8")
    assert "6" in refusal.remedy


def test_seq_0_is_refused_even_before_the_first_tick():
    refusal = place(0, 0, X, TIME, none)

    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.value) == (Reason.GAP, "0")
    assert "begins at 1" in refusal.remedy


def test_a_repeated_tick_is_its_kept_answer():
    assert place(3, 5, X, TIME, ring(5)) == answer(3)
    untimed = answer(3)._replace(time=math.nan)
    assert place(3, 5, X, math.nan, lambda seq: untimed) is untimed


@pytest.mark.parametrize("said", [(OTHER, TIME), (X, 6.0), (X, math.nan)], ids=["values", "time", "no time"])
def test_a_repeated_number_with_another_payload_is_a_conflict_that_names_both(said: tuple[Any, float]):
    refusal = place(3, 5, *said, ring(5))

    assert isinstance(refusal, Refusal)
    assert refusal.reason == Reason.CONFLICT
    assert f"{payload_digest(*said):08x}" in refusal.value
    assert f"{payload_digest(X, TIME):08x}" in refusal.value
    assert "6" in refusal.remedy


def test_a_repeated_tick_whose_answer_is_no_longer_kept_says_that_the_stream_has_advanced():
    refusal = place(1, KEPT_ANSWERS + 1, X, TIME, ring(KEPT_ANSWERS + 1))

    assert isinstance(refusal, Refusal)
    assert refusal.reason == Reason.ANSWER_LOST
    assert str(KEPT_ANSWERS + 2) in refusal.remedy


def test_a_stream_without_any_kept_answer_has_lost_them_all():
    refusal = place(5, 5, X, TIME, none)

    assert isinstance(refusal, Refusal)
    assert refusal.reason == Reason.ANSWER_LOST


@given(last=st.integers(0, 40), kept=st.integers(1, 20), seq=st.integers(0, 60), x=st.sampled_from([X, OTHER]))
def test_every_number_has_exactly_one_place(last: int, kept: int, seq: int, x: Any):
    placed = place(seq, last, x, TIME, ring(last, kept))

    if seq == last + 1:
        assert placed is None
    elif not 1 <= seq <= last:
        assert isinstance(placed, Refusal)
        assert placed.reason == Reason.GAP
    elif seq <= last - kept:
        assert isinstance(placed, Refusal)
        assert placed.reason == Reason.ANSWER_LOST
    elif x is OTHER:
        assert isinstance(placed, Refusal)
        assert placed.reason == Reason.CONFLICT
    else:
        assert placed == answer(seq)


# --- content


def check(
    x: list[float],
    time: float = math.nan,
    needs_time: bool = False,
    last_time: float = math.nan,
    holds: bool = False,
) -> Refusal | None:
    return check_values(4, np.array(x, np.float32), 2, time, needs_time, last_time, holds)


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


def test_a_nan_is_refused_with_the_way_to_have_missing_values_held():
    refusal = check([1.0, math.nan])
    assert refusal is not None
    assert refusal.value == "nan"
    assert 'create the model with missing = "hold"' in refusal.remedy


@given(st.lists(st.floats(width=32), min_size=2, max_size=2), st.booleans())
def test_values_are_refused_exactly_where_one_is_too_large_or_not_finite_nor_missing(x: list[float], holds: bool):
    bad = [i for i, value in enumerate(x) if not (abs(value) <= MAX_MAGNITUDE or (holds and math.isnan(value)))]

    refusal = check(x, holds=holds)

    assert (refusal.field if refusal else None) == (f"x[{bad[0]}]" if bad else None)


def test_a_tick_of_which_all_is_missing_still_needs_its_time():
    nothing = [math.nan, math.nan]
    assert check(nothing, 5.0, needs_time=True, holds=True) is None
    refusal = check(nothing, needs_time=True, holds=True)
    assert refusal is not None
    assert refusal.reason is Reason.TIME


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


# --- digests, many at once


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


@given(
    st.lists(
        st.tuples(
            st.integers(0, 4),
            st.integers(0, 3),
            st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 5.0, 6.0, 1e12, 1.1e12]),
            st.sampled_from([math.nan, 5.0]),
            st.lists(st.sampled_from([0.0, 1.0, 1e15, -2e15, math.nan, math.inf]), min_size=2, max_size=2),
            st.integers(0, 3),
        ),
        min_size=1,
    ),
    st.booleans(),
    st.booleans(),
)
def test_many_ticks_at_once_are_sound_only_where_each_alone_would_be_taken(
    rows: list[Any], needs_time: bool, holds: bool
):
    seq, last, time, last_time, x, durable = (np.array(column) for column in zip(*rows, strict=True))
    seq, last, durable, x = (
        seq.astype(np.uint64),
        last.astype(np.uint64),
        durable.astype(np.uint64),
        x.astype(np.float32),
    )

    sound = sound_ticks(seq, last, time, last_time, x, needs_time, durable, max_undurable=2, holds=holds, latest=5.5)

    for i, (s, la, t, lt, _, d) in enumerate(rows):
        taken = place(s, la, x[i], t, none) is None and s - d <= 2
        taken &= check_values(s, x[i], 2, t, needs_time, lt, holds, 5.5) is None
        # Two values of 1e15 are accepted: their sum is too large, so each is checked.
        total = np.nansum if holds else np.sum
        assert sound[i] == (taken and total(np.abs(x[i]).astype(np.float64)) <= MAX_MAGNITUDE)


def test_a_stream_keeps_an_answer_for_every_tick_that_a_client_may_send_again():
    assert ServeConfig(max_undurable=KEPT_ANSWERS).max_undurable >= MAX_IN_FLIGHT
    with pytest.raises(ValueError, match="max_undurable"):
        ServeConfig(max_undurable=KEPT_ANSWERS + 1)


# --- clocks

NOW = 1.6e9  # 2020-09-13T12:26:40Z


def test_an_event_time_far_ahead_of_the_clock_is_refused_with_both_dates():
    latest = latest_time(NOW, 86_400.0)
    assert check_values(1, X, 1, latest, True, math.nan, latest=latest) is None

    refusal = check_values(1, X, 1, 4070908800.0, True, math.nan, latest=latest)

    assert refusal is not None
    assert (refusal.reason, refusal.field) == (Reason.TIME, "time")
    assert refusal.value == "2099-01-01T00:00:00Z (4070908800.000)"
    assert "2020-09-14T12:26:40Z" in refusal.remedy
    assert "max_ahead_s" in refusal.remedy


@pytest.mark.parametrize(("unit", "factor"), [("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9)])
def test_a_time_in_a_smaller_unit_is_refused_by_the_name_of_the_unit(unit, factor):
    refusal = check_values(1, X, 1, NOW * factor, True, math.nan, latest=latest_time(NOW, 86_400.0))

    assert refusal is not None
    assert f"as {unit} it is 2020-09-13T12:26:40Z" in refusal.remedy


def test_a_time_that_is_not_after_the_last_names_the_reset_that_frees_the_stream_and_its_price():
    refusal = check_values(2, X, 1, NOW, True, 4070908800.0, latest=math.inf)

    assert refusal is not None
    assert "2099-01-01T00:00:00Z" in refusal.remedy
    assert "reset the stream" in refusal.remedy
    assert "lost" in refusal.remedy
