"""The contract of every registered loss, and comparison with its plain form."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model.answers.losses import LOSSES, Loss, clipped_score
from model.parameters import Array
from tests.contracts.registry import chosen, proven
from tests.oracles import plain_losses

every_loss = pytest.mark.parametrize("name", proven(chosen(LOSSES, "loss"), plain_form=plain_losses.LOSSES))
SHAPE = (4, 3, 2)
# The fields of a spec that losses read. About half of the errors below exceed delta; classes differ in weight.
SETTINGS: Any = SimpleNamespace(huber_delta=1.0, class_weights=(0.5, 3.0))


def make(name: str) -> Loss:
    return LOSSES[name](SETTINGS)


def draw(name: str) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(0)
    _, labels, _ = plain_losses.LOSSES[name]
    return rng.normal(0, 1, SHAPE), labels(rng, SHAPE), rng.random(SHAPE)


@every_loss
def test_a_loss_equals_its_plain_form_at_every_position(name: str) -> None:
    p, y, weight = draw(name)
    plain, _, _ = plain_losses.LOSSES[name]
    weight[0, 0] = weight[1, 1, 0] = 0

    each, dp = make(name)(p, y, weight)

    assert each.shape == dp.shape == SHAPE
    for at in np.ndindex(SHAPE[:2]):
        expected = plain(SETTINGS, p[at].tolist(), y[at].tolist(), weight[at].tolist())
        np.testing.assert_allclose(each[at].sum(), expected, rtol=1e-12, atol=0)


@every_loss
def test_the_derivative_equals_central_differences(name: str) -> None:
    p, y, weight = draw(name)
    loss, step = make(name), 1e-6

    _, dp = loss(p, y, weight)

    for k in range(SHAPE[-1]):
        moved = step * np.eye(SHAPE[-1])[k]
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

    np.testing.assert_allclose(loss(p, y, weight)[1], 0, atol=1e-15)
    offset = np.array([1.0, -1.0])
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
