"""Running label statistics: right at any scale, robust to one label, and answers do not change when they do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.answers import popart
from model.parameters import Array
from tests.conftest import examples
from tests.oracles.slow_labels import SlowStatistics


def fresh(outputs: int = 1, W: Any = None) -> tuple[dict[str, Array], Array]:
    target = {name: np.zeros(shape, np.float32) for name, shape in popart.shapes(outputs).items()}
    popart.init_params(target)
    return target, np.zeros((outputs, 4), np.float32) if W is None else np.array(W, np.float32)


def follow(target: dict[str, Array], W: Array, *groups: Any) -> None:
    for group in groups:
        y = np.array(group, np.float32).reshape(-1, len(W))
        popart.follow(target, W, y, np.isfinite(y))


def answers(target: dict[str, Array], W: Array) -> Array:
    """Return answers [O, 50] in float64 for inputs of ordinary size."""
    z = np.random.default_rng(7).normal(0, 1, (W.shape[1], 50))
    z[-1] = 1
    p = W.astype(np.float64) @ z
    out: Array = target["mean"][:, None].astype(np.float64) + target["scale"][:, None] * p
    return out


@examples(60)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30), seed=st.integers(0, 99),
    size=st.sampled_from([1e-6, 1.0, 1e6]), offset=st.sampled_from([0.0, 100.0, 1e4]),
)  # fmt: skip
def test_statistics_equal_weighted_sums_over_all_labels_some_of_them_missing(
    sizes: list[int], seed: int, size: float, offset: float
) -> None:
    rng, (target, W), slow = np.random.default_rng(seed), fresh(2), [SlowStatistics(), SlowStatistics()]
    for n in sizes:
        y = (size * (rng.standard_t(3, (n, 2)) + offset)).astype(np.float32)
        y[rng.random(y.shape) < 0.2] = np.nan
        follow(target, W, y)
        for k in range(2):
            slow[k].follow([float(v) for v in y[:, k] if np.isfinite(v)])

    for k in range(2):
        assert target["count"][k] == len(slow[k].values)
        if len(slow[k].values) > 1:
            # A float32 mean resolves 1e4 to 1e-3 of a scale; each group rounds mean and scale once.
            held = len(sizes) * 2.0**-23 * (1 + offset) * size
            assert abs(target["mean"][k] - slow[k].mean) <= 1e-5 * slow[k].scale + held
            assert abs(target["scale"][k] - slow[k].scale) <= 1e-4 * slow[k].scale + held


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_after_the_first_500_labels_answers_do_not_change_with_the_statistics(offset: float) -> None:
    rng = np.random.default_rng(0)
    target, W = fresh(2, rng.normal(0, 0.5, (2, 4)))
    follow(target, W, rng.normal(offset, 3, (popart.FOLLOWED, 2)))
    before, scale, mean = answers(target, W), target["scale"].copy(), target["mean"].copy()

    for group in rng.normal(offset + 20, 30, (60, 7, 2)):
        follow(target, W, group)

    assert (target["scale"] > 2 * scale).all()
    assert (target["mean"] > mean + 1).all()
    # 60 groups round weights of a few scales and a mean; at 1e5 its resolution is 8e-3, the same on both sides.
    np.testing.assert_allclose(answers(target, W), before, rtol=0, atol=60 * 2.0**-23 * 10 * target["scale"].max())


def test_during_the_first_500_labels_answers_follow_the_mean_only() -> None:
    rng = np.random.default_rng(0)
    target, W = fresh(1, rng.normal(0, 0.5, (1, 4)))
    follow(target, W, rng.normal(5, 3, 100))
    before, mean = answers(target, W), target["mean"].copy()

    follow(target, W, rng.normal(50, 3, 10))

    assert target["mean"] > mean + 1
    np.testing.assert_allclose(answers(target, W) - target["mean"], before - mean, rtol=0, atol=1e-5)


def test_a_model_without_learning_answers_0_and_then_the_mean_of_the_labels() -> None:
    target, W = fresh()
    assert not answers(target, W).any()
    for n, y in enumerate([[7.0], [9.0], [2.0, 4.0]]):
        follow(target, W, y)
        np.testing.assert_allclose(answers(target, W), [7, 8, 5.5][n], rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 3.5, -1e6])
def test_constant_labels_are_answered_exactly_and_their_first_change_counts(value: float) -> None:
    target, W = fresh(1, [[0.5, 0.5, 0.5, 0.5]])
    follow(target, W, [value] * 200, [value] * 200)
    np.testing.assert_array_equal(answers(target, W), np.float32(value))
    np.testing.assert_array_equal(W, 0.5)

    follow(target, W, [value + 8.0])
    assert target["scale"] > 0.1
    np.testing.assert_array_equal(W, 0.5)


def test_one_absurd_label_changes_the_statistics_little() -> None:
    rng = np.random.default_rng(0)
    target, W = fresh()
    follow(target, W, rng.normal(10, 2, 600))
    mean, scale = target["mean"].copy(), target["scale"].copy()

    follow(target, W, [1e30])

    assert abs(target["mean"] - mean) <= 1.01 * popart.RATE * popart.CAP * scale
    assert scale < target["scale"] < 1.03 * scale


def test_the_statistics_adapt_to_a_step_of_a_thousand_deviations() -> None:
    rng = np.random.default_rng(0)
    target, W = fresh()
    follow(target, W, rng.normal(0, 1, 600))
    for group in rng.normal(1000, 1, (150, 32)):
        follow(target, W, group)
    assert abs(target["mean"] - 1000) < 10
    assert target["scale"] < 100


def test_readout_and_scale_stay_finite_through_long_constant_labels_and_follow_the_next_change() -> None:
    rng = np.random.default_rng(0)
    target, W = fresh(1, [[0.3, -0.3, 0.2, 0.1]])
    follow(target, W, rng.normal(10, 2, 600))
    for _ in range(200):  # a day with one label per second
        follow(target, W, np.full(500, 12.0))
    assert 0 < target["scale"] < 1e-2
    assert 1 < np.abs(W).max() <= 1.001 * popart.LARGEST
    for group in rng.normal(10, 2, (50, 32)):
        follow(target, W, group)
    assert abs(target["mean"] - 10) < 1
    assert 1 < target["scale"] < 4


def test_labels_that_are_constant_until_their_scale_underflows_start_again_from_the_mean() -> None:
    rng = np.random.default_rng(0)
    target, W = fresh(1, [[0.3, -0.3, 0.2, 0.1]])
    follow(target, W, rng.normal(10, 2, 600))
    still = np.full(20_000, 12.0)
    for _ in range(80):
        follow(target, W, still)
    assert target["scale"] == 0
    before = answers(target, W)

    follow(target, W, [13.0])

    np.testing.assert_allclose(before, 12.0, rtol=1e-6)
    np.testing.assert_allclose(answers(target, W), before, rtol=0, atol=1e-5)
    for group in rng.normal(10, 2, (50, 32)):
        follow(target, W, group)
    assert 1 < target["scale"] < 4
    np.testing.assert_allclose(answers(target, W), before, rtol=0, atol=1e-4)


def test_without_labels_nothing_changes() -> None:
    target, W = fresh(2, np.ones((2, 4)))
    follow(target, W, [[1.0, 2.0], [3.0, np.nan]])
    kept = {name: value.copy() for name, value in target.items()}
    follow(target, W, [[np.nan, np.nan]])
    for name, value in target.items():
        np.testing.assert_array_equal(value, kept[name])
