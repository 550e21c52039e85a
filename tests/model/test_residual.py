"""The residual scaler's own behaviour; what every scaler must satisfy is in tests/contracts/test_scalers.py."""

from __future__ import annotations

import numpy as np
import pytest

from model.scalers.residual import ResidualScaler
from tests.model.scaled import run, series


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
