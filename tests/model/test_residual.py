"""Behaviour of the residual scaler only. The contract of every scaler is in tests/contracts/test_scalers.py."""

from __future__ import annotations

import numpy as np
import pytest

from model.scalers.residual import ResidualScaler
from tests.model.scaled import run, series


def test_there_is_no_scale_before_the_first_difference() -> None:
    scaler = ResidualScaler(1, 3)
    features, scales = run(scaler, np.array([[5.0], [7.0], [4.0], [8.0]]))

    np.testing.assert_array_equal(features[0], 0)
    np.testing.assert_array_equal(scales[:, :, 0] > 0, np.tri(4, 3, -1, dtype=bool))
    floor = 1e-3 * np.array([1.0, np.std([5, 7, 4]), np.std([5, 7, 4, 8])])  # 1e-3 of the running deviation
    np.testing.assert_allclose(scales[1:, 0, 0], np.sqrt([4, 13 / 2, 29 / 3]) + floor, rtol=1e-6)
    np.testing.assert_allclose(scales[2:, 1, 0], np.sqrt([1, 1]) + floor[1:], rtol=1e-6)
    np.testing.assert_allclose(scales[3:, 2, 0], 3 + floor[2:], rtol=1e-6)


def test_the_scale_of_a_random_walk_grows_with_the_root_of_the_step() -> None:
    walk = np.cumsum(np.random.default_rng(0).normal(0, 1, (20_000, 1)), axis=0)
    _, scales = run(ResidualScaler(1, 4), walk[-3000:])
    # Means of 500 overlapping squares have a relative deviation of about 10 %.
    np.testing.assert_allclose(scales[500:].mean(axis=0)[:, 0], np.sqrt([1, 2, 3, 4]), rtol=0.1)


@pytest.mark.parametrize("still", [60, 2000])
def test_the_scale_recovers_after_a_constant_stretch(still: int) -> None:
    """Jumps are capped at 25 times the running square, which the constant stretch brings near zero: it must recover."""
    noise = np.random.default_rng(0).normal(0, 1, (1500, 1))
    x = np.concatenate([np.zeros((still, 1)), noise])

    features, scales = run(ResidualScaler(1, 1), x)

    assert np.isfinite(features).all()
    # Differences of noise have deviation √2. The capped square grows by up to 5 % per tick: 1,500 ticks suffice.
    assert 0.5 * np.sqrt(2) < scales[-1, 0, 0] < 1.5 * np.sqrt(2)
    assert (np.abs(features[-200:, 1]) < 6).all()


def test_one_absurd_value_changes_the_scale_by_a_bounded_amount() -> None:
    x = series(400)[:, :1]
    spiked = x.copy()
    spiked[300] += 1e6
    _, calm = run(ResidualScaler(1, 1), x)
    _, after = run(ResidualScaler(1, 1), spiked)
    # The floor adds 1e-3 of a deviation that includes the spike; the square of the difference is capped.
    floor = 1e-3 * 1e6 * np.sqrt(2 * 0.002)
    assert after[302, 0, 0] < 2 * calm[302, 0, 0] + floor * 5
