"""The contract of every registered loss, and comparison with its plain form."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.answers.losses import LOSSES, Loss, clipped_score
from model.answers.spreads import LARGEST, SMALLEST, Pinball, inverse_softplus, offset, positive, rescale
from model.answers.student import quantile
from model.parameters import Array
from tests.conftest import examples
from tests.contracts.registry import chosen, proven
from tests.oracles import plain_losses

every_loss = pytest.mark.parametrize("name", proven(chosen(LOSSES, "loss"), plain_form=plain_losses.LOSSES))
SHAPE = (4, 3, 2)
# The fields of a spec that losses read. About half of the errors below exceed delta; classes differ in weight.
SETTINGS: Any = SimpleNamespace(huber_delta=1.0, class_weights=(0.5, 3.0), intervals=(0.5, 0.9), degrees=5.0)


def make(name: str) -> Loss:
    return LOSSES[name](SETTINGS)


def draw(name: str) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(0)
    _, labels, _ = plain_losses.LOSSES[name]
    p = rng.normal(0, 1, (*SHAPE[:-1], SHAPE[-1] * make(name).columns))
    return p, labels(rng, SHAPE), rng.random(SHAPE)


@every_loss
def test_a_loss_equals_its_plain_form_at_every_position(name: str) -> None:
    p, y, weight = draw(name)
    plain, _, _ = plain_losses.LOSSES[name]
    weight[0, 0] = weight[1, 1, 0] = 0

    each, dp = make(name)(p, y, weight)

    assert (each.shape, dp.shape) == (SHAPE, p.shape)
    for at in np.ndindex(SHAPE[:2]):
        expected = plain(SETTINGS, p[at].tolist(), y[at].tolist(), weight[at].tolist())
        np.testing.assert_allclose(each[at].sum(), expected, rtol=1e-12, atol=0)


@every_loss
def test_the_derivative_equals_central_differences(name: str) -> None:
    p, y, weight = draw(name)
    loss, step = make(name), 1e-6

    _, dp = loss(p, y, weight)

    for k in range(p.shape[-1]):
        moved = step * np.eye(p.shape[-1])[k]
        slope = (loss(p + moved, y, weight)[0] - loss(p - moved, y, weight)[0]).sum(axis=-1) / (2 * step)
        np.testing.assert_allclose(dp[..., k], slope, rtol=1e-6, atol=1e-9)


@every_loss
def test_a_position_of_zero_weight_has_zero_loss_and_zero_derivative(name: str) -> None:
    p, y, weight = draw(name)
    weight[:, 1] = 0

    each, dp = make(name)(p, y, weight)

    assert not each[:, 1].any()
    assert not dp[:, 1].any()
    assert each[:, [0, 2]].all()
    assert dp[:, [0, 2]].all()


@every_loss
def test_the_derivative_is_zero_at_the_right_forecast_and_a_worse_one_costs_more(name: str) -> None:
    _, y, weight = draw(name)
    _, _, right = plain_losses.LOSSES[name]
    loss, p = make(name), right(y)
    aside = [0.0] * (p.shape[-1] - SHAPE[-1])  # columns of a spread, which stays the least

    np.testing.assert_allclose(loss(p, y, weight)[1], 0, atol=1e-15)
    offset = np.array([1.0, -1.0, *aside])
    costs = [loss(p + size * offset, y, weight)[0].sum() for size in (0.0, 0.1, 1.0)]
    assert costs[0] < costs[1] < costs[2]


@every_loss
def test_float32_stays_float32(name: str) -> None:
    arguments = [a.astype(np.float32) for a in draw(name)]
    each, dp = make(name)(*arguments)
    assert each.dtype == dp.dtype == np.float32


@every_loss
def test_arguments_are_only_read(name: str) -> None:
    arguments = draw(name)
    kept = [a.copy() for a in arguments]
    make(name)(*arguments)
    for before, after in zip(kept, arguments, strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", ["mse", "huber"])
def test_a_forecast_equal_to_its_label_costs_nothing(name: str) -> None:
    _, y, weight = draw(name)
    assert not make(name)(y, y, weight)[0].any()


def test_huber_equals_mse_up_to_delta_and_its_derivative_is_bounded_by_delta() -> None:
    p, y, weight = draw("mse")
    small = np.abs(p - y) <= SETTINGS.huber_delta
    assert 0.2 < small.mean() < 0.8

    for got, squared in zip(make("huber")(p, y, weight), make("mse")(p, y, weight), strict=True):
        np.testing.assert_allclose(got[small], squared[small], rtol=1e-12)
    far = make("huber")(1e6 * p, y, np.ones(SHAPE))[1]
    np.testing.assert_array_equal(np.abs(far), SETTINGS.huber_delta)


def test_cross_entropy_weights_a_position_by_its_largest_output_weight() -> None:
    p, y, weight = draw("cross_entropy")
    loss = make("cross_entropy")
    weight[..., 0] = 0
    whole = np.repeat(weight[..., 1:], 2, axis=-1)
    for got, expected in zip(loss(p, y, weight), loss(p, y, whole), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("size", [30.0, 1e4, 1e30])
def test_cross_entropy_of_huge_logits_is_finite_and_right(size: float) -> None:
    p = np.array([[size, -size], [-size, size]], np.float32)
    y = np.array([[1, 0], [1, 0]], np.float32)

    each, dp = make("cross_entropy")(p, y, np.ones_like(y))

    # -log softmax of the true class: 0 where its logit leads by 2·size, 2·size where it trails by 2·size.
    np.testing.assert_allclose(each, np.array([[0, 0], [0.5 * 2 * size, 0]]), rtol=1e-6)
    np.testing.assert_allclose(dp, np.array([[0, 0], [-0.5, 0.5]]), rtol=1e-6, atol=1e-20)


def test_cross_entropy_is_invariant_to_a_shift_of_all_logits() -> None:
    p, y, weight = draw("cross_entropy")
    for got, expected in zip(*(make("cross_entropy")(p + c, y, weight) for c in (0, 100)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-11)  # adding 100 costs two digits of float64


def test_the_score_of_a_row_is_its_clipped_mean_square_over_labelled_outputs() -> None:
    p, y, weight = draw("mse")
    weight = (weight > 0.5).astype(np.float64)
    p[0, 0, 0], weight[0, 0, 0] = y[0, 0, 0] + 1e9, 1  # an absurd error, whose score is clipped

    got = clipped_score(p, y, weight)

    for row in range(SHAPE[1]):
        terms = [
            min((p[t, row, o] - y[t, row, o]) ** 2, 4.0) / 4.0
            for t in range(SHAPE[0]) for o in range(SHAPE[2]) if weight[t, row, o]
        ]  # fmt: skip
        np.testing.assert_allclose(got[row], np.mean(terms), rtol=1e-12)
    assert (got <= 1).all()


def test_a_nan_forecast_has_the_worst_score() -> None:
    p, y, _ = draw("mse")
    p[:, 0] = np.nan
    got = clipped_score(p, y, np.ones(SHAPE))
    assert got[0] == 1
    assert (got[1:] < 1).all()


SPREADS = [name for name in LOSSES if make(name).columns > 1]


@pytest.mark.parametrize("name", SPREADS)
def test_a_zero_readout_is_persistence_with_the_quantiles_of_a_unit_scale(name: str) -> None:
    loss = make(name)
    widths = loss.widths(np.zeros((1, 2 * loss.columns)), 2)
    assert widths is not None
    z = {"student_t": [0.7266868, 2.0150484]}.get(name, [0.6744898, 1.6448536])
    np.testing.assert_allclose(widths, np.broadcast_to(np.array(z)[:, None], (1, 2, 2, 2)), rtol=1e-6)


@pytest.mark.parametrize("name", SPREADS)
@pytest.mark.parametrize("size", [-1e30, -300.0, 300.0, 1e30])
def test_a_forecast_size_is_bounded_both_ways_and_can_return(name: str, size: float) -> None:
    loss = make(name)
    p = np.full((1, loss.columns), size, np.float32)
    p[:, 0] = 0
    y, weight = np.full((1, 1), 8 if size < 0 else 0, np.float32), np.ones((1, 1), np.float32)

    widths, (each, dp) = loss.widths(p, 1), loss(p, y, weight)
    assert widths is not None

    assert (widths >= 0.99 * SMALLEST * 0.67).all()
    assert (widths <= 2 * (LARGEST + 1) * 2.1).all()
    assert np.isfinite(each).all()
    assert np.isfinite(dp).all()
    if size > 0:  # a smaller size costs less
        assert (dp[:, 1:] > 0).all()


@pytest.mark.parametrize("name", SPREADS)
def test_the_labels_own_distribution_costs_least(name: str) -> None:
    """Of 4,000 labels of a normal distribution with deviation 2, and of a t distribution with scale 2."""
    rng, loss = np.random.default_rng(0), make(name)
    y = 2 * (rng.standard_t(5, (4000, 1)) if name == "student_t" else rng.normal(0, 1, (4000, 1)))
    normal = [0.0, 0.6744898, 1.6448536]
    unit = [b - a for a, b in pairwise(normal)] * 2 if name == "pinball" else [1.0]

    def cost(size: float, location: float = 0.0) -> float:
        raw = [inverse_softplus(size * u - SMALLEST) - c for u, c in zip(unit, loss.starts, strict=True)]
        p = np.broadcast_to([location, *raw], (len(y), loss.columns))
        return float(loss(p, y, np.ones_like(y))[0].sum())

    costs = {size: cost(size) for size in (1.0, 1.5, 2.0, 2.6, 4.0)}
    assert min(costs, key=costs.__getitem__) == 2.0
    assert cost(2.0) < min(cost(2.0, 0.5), cost(2.0, -0.5))


def test_a_far_label_pulls_a_t_distribution_no_harder_than_its_bound() -> None:
    loss = make("student_t")
    p, y = np.zeros((2001, 2)), np.linspace(-1e3, 1e3, 2001)[:, None]
    pulls = np.abs(loss(p, y, np.ones_like(y))[1][:, 0])
    assert 0.95 * 6 / (2 * math.sqrt(5)) < pulls.max() <= 6 / (2 * math.sqrt(5))
    assert pulls[0] < 0.01


def test_the_median_alone_costs_the_absolute_error() -> None:
    p, y, weight = draw("mse")
    each, dp = LOSSES["pinball"](SimpleNamespace(intervals=()))(p, y, weight)  # type: ignore[arg-type]
    np.testing.assert_allclose(each, weight * np.abs(p - y), rtol=1e-12)
    np.testing.assert_array_equal(dp, weight * np.sign(p - y))


def assert_nested(loss: Any, p: Array, outputs: int) -> None:
    widths = loss.widths(p, outputs)
    assert widths.shape == (*p.shape[:-1], 2, len(loss.levels), outputs)
    assert (widths > 0).all()
    assert (np.diff(widths, axis=-2) > 0).all()


@examples(60)
@given(
    T=st.integers(1, 4), B=st.integers(1, 4), outputs=st.integers(1, 5),
    levels=st.lists(st.integers(1, 99), min_size=0, max_size=8, unique=True),
    name=st.sampled_from(SPREADS), size=st.sampled_from([0.1, 3.0, 100.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_losses_with_a_spread_hold_for_every_shape(
    T: int, B: int, outputs: int, levels: list[int], name: str, size: float, seed: int
) -> None:
    """Shapes and weights of every row; quantiles do not cross; one position is the plain form."""
    spec: Any = SimpleNamespace(intervals=tuple(level / 100 for level in sorted(levels)), degrees=4.0)
    rng, loss = np.random.default_rng(seed), LOSSES[name](spec)
    p = rng.normal(0, size, (T, B, outputs * loss.columns))
    y, weight = rng.normal(0, size, (T, B, outputs)), np.asarray(rng.random((T, B, outputs)) < 0.6, float)

    each, dp = loss(p, y, weight)

    assert (each.shape, dp.shape) == (y.shape, p.shape)
    assert not each[weight == 0].any()
    whole = dp.reshape(T, B, loss.columns, outputs)
    assert not np.moveaxis(whole, 2, -1)[weight == 0].any()
    if levels:
        assert_nested(loss, p, outputs)
    plain, _, _ = plain_losses.LOSSES[name]
    at = tuple(np.argwhere(np.abs(p).max(axis=-1) < 60)[:1].ravel())
    if at:
        expected = plain(spec, p[at].tolist(), y[at].tolist(), weight[at].tolist())
        np.testing.assert_allclose(each[at].sum(), expected, rtol=1e-9, atol=1e-12)


class PinballThatCrosses(Pinball):
    """Add raw values to the median without making them positive or adding them up."""

    def _sides(self, p: Array, outputs: int) -> tuple[Array, Array]:
        sizes, slope = super()._sides(p, outputs)
        raw = p[..., outputs:].reshape(slope.shape)
        return raw + sizes[..., :1, :] * 0, np.ones_like(slope)


class PinballThatForgetsTheLevelBefore(Pinball):
    """Lay each quantile out from the median, not from the quantile before it."""

    def _sides(self, p: Array, outputs: int) -> tuple[Array, Array]:
        sizes, slope = super()._sides(p, outputs)
        return np.diff(sizes, axis=-2, prepend=0), slope


@pytest.mark.parametrize("mutant", [PinballThatCrosses, PinballThatForgetsTheLevelBefore])
def test_quantiles_that_cross_are_caught(mutant: type[Pinball]) -> None:
    p = np.random.default_rng(0).normal(0, 1, (4, 3, 2 * 5))
    assert_nested(Pinball((0.5, 0.9)), p, 2)
    with pytest.raises(AssertionError):
        assert_nested(mutant((0.5, 0.9)), p, 2)


def test_rescaled_rows_keep_their_sizes_in_label_units_to_first_order() -> None:
    """Exact at zero features; elsewhere off by the second order in growth − 1 and in the features."""
    rng, starts = np.random.default_rng(0), [offset(1.0), offset(0.5)]
    growth, W = np.array([1.0, 1.02, 0.97]), rng.normal(0, 0.3, (6, 5))
    before, rows = W.copy(), rng.normal(0, 0.5, (200, 4))
    rescale(W, starts, growth)

    def sizes(weights: Array, features: Array) -> Array:
        raw = features @ weights[:, :-1].T + weights[:, -1]
        return positive(raw.reshape(-1, 2, 3), np.array(starts)[:, None])[0] - SMALLEST

    np.testing.assert_allclose(sizes(W, np.zeros((1, 4))), growth * sizes(before, np.zeros((1, 4))), rtol=1e-10)
    off = sizes(W, rows) / (growth * sizes(before, rows)) - 1
    assert np.abs(off).max() < 0.1 * np.abs(growth - 1).max()
    np.testing.assert_array_equal(W[[0, 3]], before[[0, 3]])  # no change of scale, not one bit


# Quantiles at 0.75, 0.95 and 0.995: Abramowitz & Stegun, table 26.10 (F and t), as printed to three decimals.
T_TABLE = {1: (1.000, 6.314, 63.657), 2: (0.816, 2.920, 9.925), 5: (0.727, 2.015, 4.032), 30: (0.683, 1.697, 2.750)}


@pytest.mark.parametrize("degrees", T_TABLE)
def test_quantiles_of_the_t_distribution_are_those_of_the_table(degrees: int) -> None:
    got = [quantile(probability, degrees) for probability in (0.75, 0.95, 0.995)]
    np.testing.assert_allclose(got, T_TABLE[degrees], rtol=0, atol=6e-4)


def test_quantiles_of_the_t_distribution_equal_closed_forms_and_the_normal_limit() -> None:
    for p in (0.505, 0.6, 0.9, 0.9995):
        a = 2 * p - 1
        np.testing.assert_allclose(quantile(p, 1.0), math.tan(math.pi * a / 2), rtol=1e-9)
        np.testing.assert_allclose(quantile(p, 2.0), a * math.sqrt(2 / (1 - a * a)), rtol=1e-9)
        np.testing.assert_allclose(quantile(p, 1e7), NormalDist().inv_cdf(p), rtol=1e-5)
