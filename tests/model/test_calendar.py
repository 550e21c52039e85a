"""Calendar inputs compared with the calendar of the standard library."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import calendar

seconds = st.integers(-(10**9), 10**10)  # 1938 to 2286
intervals = st.sampled_from([1.0, 60.0, 900.0, 1800.0, 3600.0, 86400.0, 604800.0])


@given(seconds, intervals)
def test_inputs_are_the_time_of_day_and_day_of_week_one_interval_ahead(time: int, interval: float) -> None:
    ahead = datetime.fromtimestamp(time + int(interval), UTC)
    day = 2 * math.pi * (ahead.hour * 3600 + ahead.minute * 60 + ahead.second) / 86400
    week = 2 * math.pi * ahead.weekday() / 7

    (got,) = calendar.inputs(np.array([float(time)]), interval)

    expected = [math.sin(day), math.cos(day), math.sin(week), math.cos(week)]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-7)  # one float32 rounding of a number below 1


def test_a_batch_equals_its_rows_computed_one_by_one() -> None:
    time = 1.4e9 + np.arange(500, dtype=np.float64) * 1234.5
    together = calendar.inputs(time, 900.0)
    assert together.dtype == np.float32
    assert together.shape == (500, calendar.size(900.0))
    alone = [calendar.inputs(time[i : i + 1], 900.0) for i in range(500)]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_float64_times_resolve_one_second_of_the_day() -> None:
    early, late = calendar.inputs(np.array([1.4e9, 1.4e9 + 1]), 3600.0)
    assert (early != late).any()


@pytest.mark.parametrize("interval", [0.0, -1.0])
def test_a_model_without_an_interval_has_no_calendar(interval: float) -> None:
    assert calendar.size(interval) == 0
    assert calendar.inputs(np.array([1.0, 2.0]), interval).shape == (2, 0)
