import numpy as np
import pytest

from model.offline.periods import correlation, period
from tests.model.test_baselines import walk

LONGEST = 4096


def rng(seed):
    return np.random.default_rng(seed)


def profile(rows, lag, seed):
    """A random profile that repeats, on a wandering level, with noise."""
    noise = 0.5 * rng(seed).standard_normal(rows) + 0.05 * rng(seed + 100).standard_normal(rows).cumsum()
    return np.resize(rng(seed + 200).standard_normal(lag), rows) + noise


def sine(rows, lag, seed):
    return np.sin(2 * np.pi * np.arange(rows) / lag) + 0.3 * rng(seed).standard_normal(rows)


def spikes(rows, lag, seed):
    return 5.0 * (np.arange(rows) % lag < max(1, lag // 10)) + rng(seed).standard_normal(rows)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("make", "lag"), [(sine, 12), (sine, 50), (profile, 7), (profile, 100), (spikes, 20)])
def test_a_clear_period_is_found(make, lag, seed):
    x = make(2000, lag, seed)
    assert period(x[:, None], LONGEST) == lag
    assert period(1e6 + 1e-3 * x[:, None], LONGEST) == lag


def test_a_long_period_is_found_to_a_few_rows_in_spite_of_noise():
    assert abs(period(sine(8000, 1000, 0)[:, None], LONGEST) - 1000) <= 20


def nothing(kind, rows, seed):
    e = rng(seed).standard_normal(rows)
    return {
        "noise": e,
        "walk": e.cumsum(),
        "trend": 0.01 * np.arange(rows) + e,
        "smooth trend": 1e-4 * np.arange(rows) ** 2.0,
        "damped cycles": walk(rows, 1, seed)[:, 0],
        "heavy tails": rng(seed).standard_t(1.5, rows).cumsum(),
        "counts": 1.0 * rng(seed).poisson(0.1, rows),
        "constant": np.full(rows, 7.0),
    }[kind]


@pytest.mark.parametrize("rows", [40, 100, 1000])
@pytest.mark.parametrize(
    "kind", ["noise", "walk", "trend", "smooth trend", "damped cycles", "heavy tails", "counts", "constant"]
)
def test_where_there_is_no_period_none_is_found(kind, rows):
    assert [period(nothing(kind, rows, seed)[:, None], LONGEST) for seed in range(10)] == [0] * 10


def test_a_period_that_ends_half_way_is_none():
    x = profile(2000, 50, 0)
    x[1000:] = rng(1).standard_normal(1000)
    assert period(x[:, None], LONGEST) == 0


def test_missing_values_outliers_and_idle_channels_do_not_hide_a_period():
    x = np.column_stack([sine(2000, 24, 0), np.full(2000, 3.0), np.arange(2000) / 7, np.full(2000, np.nan)])
    x[rng(1).random(x.shape) < 0.1] = np.nan
    x[rng(2).integers(0, 2000, 10), 0] = 1e6
    before = x.copy()
    assert period(x, LONGEST) == 24
    np.testing.assert_array_equal(x, before)


def test_periods_longer_than_asked_for_or_with_too_few_rows_are_not_found():
    x = profile(1000, 100, 0)[:, None]
    assert period(x, 100) == 100
    assert period(x, 99) == 0
    assert period(x[:390], LONGEST) == 0


def test_the_correlation_is_that_of_the_definition():
    d = rng(0).standard_normal((50, 2))
    d -= d.mean(axis=0)
    slow = [
        np.mean([(d[: 50 - lag, c] * d[lag:, c]).mean() / (d[:, c] ** 2).mean() for c in range(2)]) for lag in range(9)
    ]
    np.testing.assert_allclose(correlation(d, 8), slow, rtol=1e-12)
