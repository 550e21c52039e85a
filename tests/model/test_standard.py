"""Behaviour of the standard scaler only. The contract of every scaler is in tests/contracts/test_scalers.py."""

from __future__ import annotations

import numpy as np

from model.scalers.standard import StandardScaler
from tests.model.scaled import run, run_slow


def test_the_mean_keeps_adapting_at_an_offset_of_1e5_spreads() -> None:
    """A single float32 mean would stop adapting: α times a deviation of 1 is less than half a step of 2⁻⁷ there."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (3000, 1)) + 1e5 + np.repeat([[0.0], [5.0]], 1500, axis=0)

    z, scales = run(StandardScaler(1, 1), x)
    expected_z, expected_scales = run_slow("standard", 1, x)

    # Differences of float32 values near 1e5 are exact, so the offset adds no error. The factor 1 − α is rounded by up
    # to 2⁻²⁵ and applied to the square of the jump 1,500 times: 4.5e-5 of the variance, half of that in σ.
    np.testing.assert_allclose(scales, expected_scales, rtol=2.5e-5)
    np.testing.assert_allclose(z, expected_z, rtol=2.5e-5, atol=2e-5)


def test_the_scale_of_a_stationary_signal_is_its_deviation() -> None:
    x = np.random.default_rng(0).normal(3.0, 2.0, (3000, 1))
    z, scales = run(StandardScaler(1, 2), x)
    # A mean of 500 squares has a relative deviation of about 4 %.
    np.testing.assert_allclose(scales[-1, :, 0], 2.0, rtol=0.1)
    assert abs(z[-1000:].mean()) < 0.2
    np.testing.assert_allclose(z[-1000:].std(), 1.0, rtol=0.1)
