import math

import numpy as np
import pytest

from model.offline.baselines import Held, Persistence
from model.offline.least_squares import LaggedValues, RecursiveLeastSquares
from model.offline.seasonal import SeasonalLeastSquares, SeasonalNaive
from tests.model.test_baselines import forecasts, squared_error, walk
from tests.oracles import slow_baselines as slow


def timed(model, x, time, u=None):
    return np.stack([model.step(row, None if u is None else u[t], time[t]) for t, row in enumerate(x)])


def gappy_times(rows, interval, seed=0):
    """Times with jitter, missing rows, and one gap longer than the seasons."""
    rng = np.random.default_rng(seed)
    steps = rng.choice([1, 1, 1, 1, 2, 5], rows)
    steps[rows // 2] = 100
    return 1e9 + interval * (np.cumsum(steps) + rng.uniform(-0.3, 0.3, rows))


def seasonal(rows, season, seed=0):
    """A profile that repeats, a level that wanders, and noise."""
    rng = np.random.default_rng(seed)
    profile = np.resize(rng.standard_normal(season), rows)
    return (10 + profile + 0.1 * rng.standard_normal(rows).cumsum() + 0.1 * rng.standard_normal(rows))[:, None]


@pytest.mark.parametrize("season", [7.0, 6.4])
@pytest.mark.parametrize("horizon", [1, 3, 16])
def test_the_seasonal_naive_equals_the_search_through_the_whole_past(season, horizon):
    x, time = walk(120, 2), gappy_times(120, 60.0)
    x[np.random.default_rng(1).random(x.shape) < 0.1] = np.nan
    made = timed(SeasonalNaive(2, horizon, season, 60.0), x, time)
    for c in range(2):
        for t in range(len(x)):
            past = list(zip(time[: t + 1].tolist(), x[: t + 1, c].tolist(), strict=True))
            np.testing.assert_array_equal(made[t, :, c], slow.naive(past, horizon, season, 60.0))


def test_the_seasonal_naive_repeats_the_season_after_it_and_the_present_value_before():
    x = np.arange(12.0)[:, None]
    made = forecasts(SeasonalNaive(1, 6, 4), x)
    np.testing.assert_array_equal(made[2, :, 0], [2, 0, 1, 2, 2, 0])  # t + 1 − 4 was before the first tick
    np.testing.assert_array_equal(made[9, :, 0], [6, 7, 8, 9, 6, 7])


def test_a_gap_does_not_shift_the_season():
    profile, hours = np.array([0.0, 1.0, 4.0, 9.0, 16.0, 25.0]), np.arange(60)
    kept = (hours < 30) | (hours >= 33)
    x, time = np.resize(profile, 60)[kept][:, None], 3600.0 * hours[kept]
    made = timed(SeasonalNaive(1, 1, 6, 3600.0), x, time)[:, 0, 0]
    known = np.flatnonzero(np.isin(hours[kept], [33, 34]) | (hours[kept] >= 38))  # the same hour before was observed
    ahead = np.resize(profile, 61)[hours[kept] + 1]
    np.testing.assert_array_equal(made[known], ahead[known])
    untimed = forecasts(SeasonalNaive(1, 1, 6), x)[:, 0, 0]
    assert np.any(untimed[known] != ahead[known]), "without times the gap shifts it: the test proves something"


def regressors(x, time, horizon, seasons, interval, lags):
    """The regressor of each tick and step from the whole past, (N, H, n), and the scale of each tick."""
    lagged, Z, scales = LaggedValues(1, lags, 0), [], []
    for t, row in enumerate(x):
        common, [scale] = lagged.follow(row, np.zeros(0))
        past = list(zip(time[: t + 1].tolist(), x[: t + 1, 0].tolist(), strict=True))
        columns = [slow.season_columns(past, h, seasons, interval, scale) for h in range(1, horizon + 1)]
        Z.append([np.concatenate([common[0], each]) for each in columns])
        scales.append(scale)
    return np.array(Z), np.array(scales)


@pytest.mark.parametrize("forgetting", [1.0, 0.97])
@pytest.mark.parametrize("horizon", [1, 3, 9])
def test_the_weights_of_seasonal_least_squares_are_those_of_the_slow_twins(horizon, forgetting):
    seasons, interval, rows = [7.0, 16.5], 60.0, 90
    x, time = walk(rows, 1), gappy_times(rows, interval)
    model = SeasonalLeastSquares(1, horizon, seasons, interval, lags=2, forgetting=forgetting)
    made = timed(model, x, time)
    Z, scales = regressors(x, time, horizon, seasons, interval, 2)
    for h in range(1, horizon + 1):
        origins = np.flatnonzero(scales[: rows - h] > 0)
        y = np.clip((x[origins + h, 0] - x[origins, 0]) / scales[origins], -8, 8)
        known = Z[origins, h - 1]
        weights = slow.recursive(known, y, forgetting, 0.1)
        np.testing.assert_allclose(model._weights[h - 1, 0], weights, rtol=1e-7, atol=1e-10)
        if forgetting == 1:
            np.testing.assert_allclose(weights, slow.ridge(known, y, 0.1), rtol=1e-7, atol=1e-10)
        forecast = x[-1, 0] + scales[-1] * (weights @ Z[-1, h - 1])
        np.testing.assert_allclose(made[-1, h - 1, 0], forecast, rtol=1e-9)


@pytest.mark.parametrize("seasons", [[], [7.0]])
def test_inputs_known_by_step_are_regressors_of_their_step_as_in_the_slow_twin(seasons):
    rows, horizon, interval = 80, 3, 60.0
    rng, x, time = np.random.default_rng(3), walk(rows, 1), gappy_times(rows, interval)
    common, ahead = rng.normal(size=(rows, 2)), rng.normal(size=(rows, horizon, 2))
    model = SeasonalLeastSquares(1, horizon, seasons, interval, lags=2, known=2, ahead=2, forgetting=0.98)
    made = timed(model, x, time, np.concatenate([common, ahead.reshape(rows, -1)], axis=1))
    Z, scales = regressors(x, time, horizon, seasons, interval, 2)
    shared = np.repeat(common[:, None], horizon, axis=1)
    Z = np.concatenate([Z[..., :3], shared, Z[..., 3:], ahead], axis=2) * (scales > 0)[:, None, None]
    for h in range(1, horizon + 1):
        origins = np.flatnonzero(scales[: rows - h] > 0)
        y = np.clip((x[origins + h, 0] - x[origins, 0]) / scales[origins], -8, 8)
        weights = slow.recursive(Z[origins, h - 1], y, 0.98, 0.1)
        np.testing.assert_allclose(model._weights[h - 1, 0], weights, rtol=1e-7, atol=1e-10)
        forecast = x[-1, 0] + scales[-1] * (weights @ Z[-1, h - 1])
        np.testing.assert_allclose(made[-1, h - 1, 0], forecast, rtol=1e-9)
    with pytest.raises(ValueError, match=r"need u \(8,\), got \(7,\)"):
        model.step(x[0], np.zeros(7), time[0])


def test_before_a_season_has_passed_seasonal_least_squares_are_least_squares():
    """Without forgetting the unused columns change nothing; the limit of the trace does not act."""
    x = walk(100, 2)
    made = forecasts(SeasonalLeastSquares(2, 4, [300.0], forgetting=1.0), x)
    np.testing.assert_allclose(made, forecasts(RecursiveLeastSquares(2, 4, forgetting=1.0), x), rtol=1e-12)


@pytest.mark.parametrize("horizon", [1, 8])
def test_a_season_longer_than_the_lags_is_learned(horizon):
    x = seasonal(3000, 60)
    errors = {
        name: squared_error(forecasts(model, x), x, 1000)
        for name, model in (
            ("seasonal", SeasonalLeastSquares(1, horizon, [60.0])),
            ("naive", SeasonalNaive(1, horizon, 60.0)),
            ("lags", RecursiveLeastSquares(1, horizon)),
            ("persistence", Persistence(horizon)),
        )
    }
    assert errors["seasonal"] < 0.5 * min(errors["naive"], errors["lags"])
    assert errors["lags"] < errors["persistence"]


@pytest.mark.parametrize("make", [lambda: SeasonalNaive(2, 4, 24.0), lambda: SeasonalLeastSquares(2, 4, [24.0, 50.5])])
def test_no_seasonal_forecast_depends_on_later_values(make):
    x = walk(300, 2)
    other = x.copy()
    other[200:] = 1e3 * np.random.default_rng(1).standard_normal(other[200:].shape)
    a, b = (forecasts(make(), series) for series in (x, other))
    np.testing.assert_array_equal(a[:200], b[:200])
    assert np.any(a[100:200] != forecasts(Persistence(4), x)[100:200])


@pytest.mark.parametrize(("scale", "offset"), [(1e-6, 0.0), (1e6, -3e6)])
def test_seasonal_forecasts_are_equivariant_under_a_change_of_units(scale, offset):
    x = walk(300, 2) - 100
    a = forecasts(SeasonalLeastSquares(2, 2, [24.0]), x)
    b = forecasts(SeasonalLeastSquares(2, 2, [24.0]), x * scale + offset)
    np.testing.assert_allclose((b - offset) / scale, a, atol=1e-5)


def test_held_seasonal_least_squares_equal_the_plain_ones_without_gaps_and_stay_finite_with_them():
    x, time = walk(200, 3), gappy_times(200, 60.0)
    held = lambda: Held(lambda: SeasonalLeastSquares(1, 4, [24.0], 60.0), 3, 4)  # noqa: E731
    plain = timed(SeasonalLeastSquares(3, 4, [24.0], 60.0), x, time)
    np.testing.assert_allclose(timed(held(), x, time), plain, rtol=1e-10)
    x[np.random.default_rng(0).random(x.shape) < 0.3] = np.nan
    assert np.isfinite(timed(held(), x, time)).all()


def test_the_covariances_stay_symmetric_and_bounded():
    x = np.concatenate([walk(300, 1), np.full((2000, 1), 100.0), walk(300, 1)])
    model = SeasonalLeastSquares(1, 3, [24.0], forgetting=0.9)
    assert np.isfinite(forecasts(model, x)).all()
    np.testing.assert_array_equal(model._P, model._P.transpose(0, 1, 3, 2))
    assert np.einsum("hcii->hc", model._P).max() <= model._trace_cap * (1 + 1e-9)


@pytest.mark.parametrize(("seasons", "interval"), [([], 1.0), ([1.5], 1.0), ([math.inf], 1.0), ([7.0], 0.0)])
def test_seasons_that_cannot_be_are_refused(seasons, interval):
    with pytest.raises(ValueError, match="need seasons of 2 ticks or more"):
        SeasonalLeastSquares(1, 1, seasons, interval)
