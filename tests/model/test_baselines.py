import numpy as np
import pytest

from model import calendar
from model.offline.baselines import Held, Persistence
from model.offline.least_squares import RecursiveLeastSquares
from service.programs.backtest.series import read_series


def walk(rows, channels, seed=0):
    """Return a stationary second-order autoregression plus an offset, which lags can learn."""
    rng = np.random.default_rng(seed)
    x = np.zeros((rows, channels))
    for t in range(2, rows):
        x[t] = 1.5 * x[t - 1] - 0.7 * x[t - 2] + rng.standard_normal(channels)
    return 100 + x


def forecasts(model, x, u=None):
    return np.stack([model.step(row, None if u is None else u[t]) for t, row in enumerate(x)])


def squared_error(forecast, x, start):
    """Return the mean squared error over origins from `start`, horizons and channels. forecast: (N, H, C)."""
    heads = range(1, 1 + forecast.shape[1])
    return np.mean([np.mean((forecast[start:-h, h - 1] - x[start + h :]) ** 2) for h in heads])


def test_persistence_repeats_the_current_value():
    np.testing.assert_array_equal(Persistence(3).step(np.array([1, 2], np.float32)), [[1, 2]] * 3)


def test_without_gaps_held_baselines_equal_the_baselines():
    x, u = walk(200, 3), np.random.default_rng(1).standard_normal((200, 2))
    held = Held(lambda: RecursiveLeastSquares(1, 4, lags=8, known=2), 3, 4)
    plain = RecursiveLeastSquares(3, 4, lags=8, known=2)
    np.testing.assert_allclose(forecasts(held, x, u), forecasts(plain, x, u), rtol=1e-12)


def test_a_held_baseline_replaces_missing_values_by_the_last_one_and_starts_at_the_first():
    x = walk(60, 2)
    x[:10, 1] = x[30:40, 0] = np.nan
    made = forecasts(Held(lambda: RecursiveLeastSquares(1, 3), 2, 3), x)

    filled = x.copy()
    filled[30:40, 0] = x[29, 0]
    assert not made[:10, :, 1].any()
    np.testing.assert_array_equal(made[:, :, :1], forecasts(RecursiveLeastSquares(1, 3), filled[:, :1]))
    np.testing.assert_array_equal(made[10:, :, 1:], forecasts(RecursiveLeastSquares(1, 3), x[10:, 1:]))


def test_least_squares_equals_persistence_before_it_has_learned():
    model = RecursiveLeastSquares(2, 3)
    np.testing.assert_array_equal(model.step(np.array([5.0, -7.0])), [[5, -7]] * 3)


def test_the_one_step_error_is_close_to_the_noise_of_the_process():
    x = walk(4000, 3)
    error = squared_error(forecasts(RecursiveLeastSquares(3, 1, lags=8), x), x, 1000)
    assert error < 1.05  # the innovation has variance 1, a lower bound for any forecaster
    assert error < 0.7 * squared_error(forecasts(Persistence(1), x), x, 1000)


@pytest.mark.parametrize("covariance", [10.0, 0.1])
@pytest.mark.parametrize("horizon", [1, 3])
def test_without_forgetting_the_weights_are_those_of_ridge_regression(horizon, covariance):
    """The oracle solves the normal equations of each head over all its origins at once."""
    x = walk(60, 1)
    model = RecursiveLeastSquares(1, horizon, lags=3, forgetting=1.0, covariance=covariance)
    regressors, scales = [], []
    for t, row in enumerate(x):
        model.step(row)
        regressors.append(model._regressor[t % horizon, 0].copy())
        scales.append(model._scale[t % horizon, 0])
    for h in range(1, horizon + 1):
        origins = np.array([t for t in range(len(x) - h) if scales[t] > 0])
        A = np.array(regressors)[origins]
        y = np.clip((x[origins + h, 0] - x[origins, 0]) / np.array(scales)[origins], -8, 8)
        ridge = np.linalg.solve(A.T @ A + np.eye(A.shape[1]) / covariance, A.T @ y)
        np.testing.assert_allclose(model._weights[h - 1, 0], ridge, rtol=1e-9)


def test_no_forecast_depends_on_later_values():
    x = walk(300, 2)
    other = x.copy()
    other[200:] = 1e3 * np.random.default_rng(1).standard_normal(other[200:].shape)

    a, b = (forecasts(RecursiveLeastSquares(2, 4), series) for series in (x, other))

    np.testing.assert_array_equal(a[:200], b[:200])
    assert np.any(a[100:200] != forecasts(Persistence(4), x)[100:200])  # learning is on


@pytest.mark.parametrize(("scale", "offset"), [(1e-6, 0.0), (1e6, -3e6), (1.0, 1e5)])
def test_forecasts_are_equivariant_under_a_change_of_units(scale, offset):
    x = walk(500, 2) - 100
    a = forecasts(RecursiveLeastSquares(2, 2), x)
    b = forecasts(RecursiveLeastSquares(2, 2), x * scale + offset)
    np.testing.assert_allclose((b - offset) / scale, a, atol=1e-5)  # an offset of 1e5 costs 5 of 16 digits


def test_a_constant_stretch_does_not_inflate_the_covariance():
    """With forgetting 0.9 and no cap, P grows by 0.9^-5000 during the constant stretch and the next change explodes."""
    x = walk(600, 1)
    x = np.concatenate([x[:300], np.full((5000, 1), x[299]), x[300:]])

    error = (forecasts(RecursiveLeastSquares(1, 1, lags=4, forgetting=0.9), x)[:-1, 0] - x[1:]) ** 2

    assert np.sqrt(error).max() < 10 * np.abs(np.diff(x, axis=0)).max()
    assert np.median(error[-100:]) < 4.0


def test_fast_forgetting_on_long_regressors_stays_finite():
    x = walk(5000, 2)
    error = squared_error(forecasts(RecursiveLeastSquares(2, 1, forgetting=0.98), x), x, 500)
    assert error < 3.0  # 50 ticks of memory for 25 weights are noisy, but not worse


def test_a_constant_channel_is_forecast_exactly_and_does_not_change_the_others():
    x = walk(300, 2)
    constant = np.concatenate([x, np.full((300, 1), 7.25)], axis=1)
    both = forecasts(RecursiveLeastSquares(3, 2), constant)
    np.testing.assert_array_equal(both[:, :, 2], 7.25)
    np.testing.assert_array_equal(both[:, :, :2], forecasts(RecursiveLeastSquares(2, 2), x))


def test_known_inputs_of_the_next_tick_are_used():
    rng = np.random.default_rng(3)
    u = rng.standard_normal((2000, 1))
    x = np.concatenate([[[0.0]], np.cumsum(u[:-1], axis=0)]) + 1e-3 * rng.standard_normal((2000, 1))
    error = squared_error(forecasts(RecursiveLeastSquares(1, 1, known=1), x, u), x, 500)
    assert error < 0.01  # without u the next step has variance 1


def test_the_error_for_a_wrong_shape_names_both_shapes():
    with pytest.raises(ValueError, match=r"need x \(2,\) and u \(0,\), got \(3,\) and \(0,\)"):
        RecursiveLeastSquares(2).step(np.zeros(3))


@pytest.mark.parametrize(
    ("file", "train", "first", "last", "bar"),
    [
        pytest.param("ETTh2.csv", 2880, 3600, 14400, 0.3601, marks=pytest.mark.long),
        pytest.param("ETTm1_head.csv", 2880, 3600, 14400, 0.0810, marks=pytest.mark.long),
        ("nyc_taxi.csv", 2064, 2580, 10320, 0.0278),
    ],
)
def test_forecasts_of_the_measured_series_are_as_good_as_the_published_baseline(
    shared_data, file, train, first, last, bar
):
    series = read_series(shared_data / file)
    assert series.time is not None
    x, u = series.x[:last], calendar.inputs(series.time[:last], series.interval)

    forecast = forecasts(RecursiveLeastSquares(x.shape[1], known=u.shape[1]), x, u)[first - 1 : last - 1, 0]

    assert np.mean(((forecast - x[first:last]) / x[:train].std(axis=0)) ** 2) <= bar
