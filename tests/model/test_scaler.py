"""The residual scaler: against its definition in float64, and the equivariance that DESIGN R10 promises."""

from __future__ import annotations

import numpy as np
import pytest

from model.cell import Array
from model.network import Network
from model.scaler import ResidualScaler
from model.spec import ModelSpec
from tests.oracles.slow_scaler import SlowScaler

TICKS = 700
FLOAT32_EPS = 2.0**-23


def series(n: int = TICKS, seed: int = 0) -> Array:
    """[n, 2] float64: a random walk that is pulled back, and one with rare jumps; spread about 1."""
    rng = np.random.default_rng(seed)
    x, out = np.zeros(2), []
    for _ in range(n):
        x = 0.95 * x + rng.normal(0, 0.3, 2) + (rng.random(2) < (0, 0.02)) * rng.normal(0, 5, 2)
        out.append(x)
    return np.array(out)


def run(scaler: ResidualScaler, x: Array) -> tuple[Array, Array]:
    """Features [n, 3C] and scales [n, H, C] of one stream's values [n, C]."""
    row, features, scales = np.zeros((1, scaler.size), np.float32), [], []
    for value in x.astype(np.float32):
        feature, scale = scaler.update(row, value[None])
        features.append(feature[0])
        scales.append(scale[0])
    return np.array(features), np.array(scales)


def run_slow(x: Array, horizon: int) -> tuple[Array, Array]:
    scaler, features, scales, u_before = SlowScaler(x.shape[1], horizon), [], [], np.zeros(x.shape[1])
    for value in x.astype(np.float32).astype(np.float64):
        u, level, scale = scaler.update(value)
        features.append(np.concatenate([u_before, u, level]))
        scales.append(scale)
        u_before = u
    return np.array(features), np.array(scales)


@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_features_and_scales_equal_their_definition_as_weighted_sums_in_float64(horizon: int, offset: float) -> None:
    x = series() + offset

    features, scales = run(ResidualScaler(2, horizon), x)
    expected_features, expected_scales = run_slow(x, horizon)

    # Differences are exact; running float32 sums round by 2⁻²³ of themselves, of which few stay within 500 ticks.
    np.testing.assert_allclose(scales, expected_scales, rtol=1e-5, atol=0)
    # The level compares x with a mean that is held to offset·2⁻²³, and drifts by a few of those.
    np.testing.assert_allclose(features, expected_features, rtol=0, atol=2e-5 + 16 * offset * FLOAT32_EPS)


def test_the_first_ticks_have_no_difference_and_no_scale_until_one_was_seen() -> None:
    scaler = ResidualScaler(1, 3)
    features, scales = run(scaler, np.array([[5.0], [7.0], [4.0], [8.0]]))

    np.testing.assert_array_equal(features[0], 0)
    np.testing.assert_array_equal(scales[:, :, 0] > 0, np.tri(4, 3, -1, dtype=bool))
    floor = 1e-3 * np.array([1.0, np.std([5, 7, 4]), np.std([5, 7, 4, 8])])  # of the running deviation
    np.testing.assert_allclose(scales[1:, 0, 0], np.sqrt([4, 13 / 2, 29 / 3]) + floor, rtol=1e-6)
    np.testing.assert_allclose(scales[2:, 1, 0], np.sqrt([1, 1]) + floor[1:], rtol=1e-6)
    np.testing.assert_allclose(scales[3:, 2, 0], 3 + floor[2:], rtol=1e-6)


def test_the_scale_of_a_random_walk_grows_with_the_root_of_the_step() -> None:
    walk = np.cumsum(np.random.default_rng(0).normal(0, 1, (20_000, 1)), axis=0)
    _, scales = run(ResidualScaler(1, 4), walk[-3000:])
    # Means of 500 overlapping squares: a relative deviation of some 10 %.
    np.testing.assert_allclose(scales[500:].mean(axis=0)[:, 0], np.sqrt([1, 2, 3, 4]), rtol=0.1)


def network(horizon: int = 3) -> Network:
    return Network(ModelSpec(channels=("a", "b"), horizon=horizon, hidden=8))


def perturbed(net: Network, seed: int = 3) -> Array:
    """Weights without a zero: a zero readout would forecast persistence and prove nothing."""
    flat = np.random.default_rng(seed).normal(0, 0.3, net.layout.size).astype(np.float32)
    assert np.abs(flat).min() > 0
    return flat


def forecasts(net: Network, flat: Array, x: Array) -> Array:
    """[n, H, C] float64, of one stream of raw values."""
    weights, tape = net.weights(flat), net.tape(1, 1)
    state, out = np.zeros((1, net.state_size), np.float32), []
    for value in x.astype(np.float32):
        y, state = net.step(weights, value[None], np.zeros((1, 0), np.float32), state, tape)
        out.append(y.reshape(net.spec.horizon, -1))
    return np.array(out, np.float64)


@pytest.mark.parametrize("a", [1e-6, 1e-3, 7.0, 1e3, 1e6])
@pytest.mark.parametrize("b", [0.0, 1.0, -300.0, 1e5])
def test_forecasts_follow_x_to_a_x_plus_b_with_b_in_spreads(a: float, b: float) -> None:
    net = network()
    flat = perturbed(net)
    # The same numbers in both units: what float32 holds after the change, taken back in float64.
    moved = (a * (series(300) + b)).astype(np.float32).astype(np.float64)
    x = moved / a - b

    got, expected = forecasts(net, flat, moved), forecasts(net, flat, x)

    # In spreads. Roundings of numbers near 1; and at offset b values, mean and answer are held to b·2⁻²³ each.
    tolerance = 1e-5 + 4 * abs(b) * FLOAT32_EPS
    np.testing.assert_allclose(got / a - b, expected, rtol=0, atol=tolerance)
    persistence = np.repeat(x[:, None], 3, axis=1)
    assert np.abs(expected - persistence).mean() > 5 * tolerance  # there was something to be equivariant


def test_a_constant_channel_forecasts_its_value_and_nothing_is_nan() -> None:
    net = network()
    x = np.column_stack([np.full(200, 123.456), series(200)[:, 0]])

    y = forecasts(net, perturbed(net), x)

    assert np.isfinite(y).all()
    np.testing.assert_array_equal(y[:, :, 0], np.float32(123.456))
    assert (y[5:, :, 1] != x[5:, None, 1]).all()


@pytest.mark.parametrize("value", [0.0, 1e15, -1e15, 1e-30])
def test_extreme_constants_and_their_return_stay_finite(value: float) -> None:
    net = network()
    x = np.zeros((60, 2)) + value
    x[30:40] = -value
    x[50:] = 1.0
    assert np.isfinite(forecasts(net, perturbed(net), x)).all()


@pytest.mark.parametrize("still", [60, 2000])
def test_a_channel_that_moves_after_standing_still_is_scaled_to_its_movement_again(still: int) -> None:
    """Jumps are capped at 25 times the running square, which is then near zero: it must grow out of that."""
    noise = np.random.default_rng(0).normal(0, 1, (1500, 1))
    x = np.concatenate([np.zeros((still, 1)), noise])

    features, scales = run(ResidualScaler(1, 1), x)

    assert np.isfinite(features).all()
    # Differences of noise have deviation √2. The capped square grows by up to 5 % a tick, so 1,500 ticks are ample.
    assert 0.5 * np.sqrt(2) < scales[-1, 0, 0] < 1.5 * np.sqrt(2)
    assert (np.abs(features[-200:, 1]) < 6).all()


def test_one_absurd_value_moves_the_scale_by_a_bounded_amount() -> None:
    x = series(400)[:, :1]
    spiked = x.copy()
    spiked[300] += 1e6
    _, calm = run(ResidualScaler(1, 1), x)
    _, after = run(ResidualScaler(1, 1), spiked)
    # What the floor adds is 1e-3 of a deviation that did take the spike in; the difference's square itself is capped.
    floor = 1e-3 * 1e6 * np.sqrt(2 * 0.002)
    assert after[302, 0, 0] < 2 * calm[302, 0, 0] + floor * 5


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    scaler, x = ResidualScaler(2, 2), np.stack([series(50, s) for s in range(5)], axis=1).astype(np.float32)
    rows = np.zeros((5, scaler.size), np.float32)
    together = [scaler.update(rows, tick) for tick in x]
    for stream in range(5):
        features, scales = run(scaler, x[:, stream])
        np.testing.assert_array_equal(features, [f[stream] for f, _ in together])
        np.testing.assert_array_equal(scales, [s[stream] for _, s in together])
