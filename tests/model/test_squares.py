"""Recursive least squares compared with the normal equations."""

from __future__ import annotations

import numpy as np
import pytest

from model.update.squares import Covariance


def direct(Z: np.ndarray, forgetting: float, start: float) -> np.ndarray:
    """The inverse of the weighted, regularised normal matrix after rows Z [N, n], one update per row."""
    N, n = Z.shape
    age = forgetting ** np.arange(N)[::-1]
    return np.linalg.inv(forgetting**N / start * np.eye(n) + (Z * age[:, None]).T @ Z)


def test_the_covariance_is_the_inverse_of_the_weighted_normal_matrix() -> None:
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(60, 2, 5))
    covariance = Covariance(2, 5, 0.99, 0.5)
    for z in Z:
        gain = covariance.gains(z[None])

    for group in range(2):
        P = covariance.factor[group] * covariance.matrix[group]
        np.testing.assert_allclose(P, direct(Z[:, group], 0.99, 0.5), rtol=1e-8)
        np.testing.assert_allclose(gain[0, group], P @ Z[-1, group], rtol=1e-6)  # Haykin, eq. 10.22
        np.testing.assert_array_equal(covariance.matrix[group], covariance.matrix[group].T)


def test_a_block_of_rows_counts_like_its_rows_with_one_forgetting() -> None:
    rng = np.random.default_rng(1)
    Z = rng.normal(size=(7, 1, 4))
    together, alone = Covariance(1, 4, 0.9, 0.5), Covariance(1, 4, 1.0, 0.5)
    gains = together.gains(Z)

    # (0.9·I/0.5 + Z'Z)⁻¹, by rows without forgetting from P = 0.5/0.9.
    alone.matrix /= 0.9
    alone.trace /= 0.9
    alone.start = np.inf
    for z in Z:
        alone.gains(z[None])
    P = together.factor[0] * together.matrix[0]
    np.testing.assert_allclose(P, alone.factor[0] * alone.matrix[0], rtol=1e-9)
    np.testing.assert_allclose(gains[:, 0], Z[:, 0] @ P, rtol=1e-9)


@pytest.mark.parametrize("rows", [1, 3])
def test_without_excitation_the_trace_stays_at_its_start(rows: int) -> None:
    covariance = Covariance(1, 4, 0.9, 0.5)
    z = np.zeros((rows, 1, 4))
    z[:, :, 0] = 1
    for _ in range(2000):
        covariance.gains(z)

    P = covariance.factor[0] * covariance.matrix[0]
    assert np.trace(P) <= 4 * 0.5 * (1 + 1e-9)
    assert np.isfinite(P).all()
    np.testing.assert_allclose(covariance.trace[0], np.trace(covariance.matrix[0]), rtol=1e-6)


def test_a_row_of_zeros_only_forgets() -> None:
    covariance = Covariance(1, 3, 0.99, 0.5)
    covariance.gains(np.array([[[1.0, 2.0, -1.0]]]))
    before = covariance.matrix.copy()

    assert not covariance.gains(np.zeros((1, 1, 3))).any()

    np.testing.assert_array_equal(covariance.matrix, before)


def test_a_packed_covariance_continues_as_it_was() -> None:
    rng = np.random.default_rng(3)
    first, second = Covariance(2, 3, 0.99, 0.5), Covariance(2, 3, 0.99, 0.5)
    first.gains(rng.normal(size=(1, 2, 3)))
    second.unpack(first.pack())
    z = rng.normal(size=(1, 2, 3))

    np.testing.assert_array_equal(first.gains(z), second.gains(z))
    with pytest.raises(ValueError, match="expected"):
        second.unpack(first.pack()[:-8])
