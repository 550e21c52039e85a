"""What every loss in the registry must satisfy."""

from __future__ import annotations

import numpy as np
import pytest

from model.cell import Array
from model.losses import LOSSES, Loss, clipped_score

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
SHAPE = (4, 3, 2)


def draw() -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(0)
    return rng.normal(0, 1, SHAPE), rng.normal(0, 1, SHAPE), rng.random(SHAPE)


@every_loss
def test_the_derivative_equals_central_differences(loss: Loss) -> None:
    p, y, weight = draw()
    step = 1e-6

    each, dp = loss(p, y, weight)

    assert each.shape == dp.shape == SHAPE
    slope = (loss(p + step, y, weight)[0] - loss(p - step, y, weight)[0]) / (2 * step)
    np.testing.assert_allclose(dp, slope, rtol=1e-6, atol=1e-9)


@every_loss
def test_an_output_of_zero_weight_has_zero_loss_and_zero_derivative(loss: Loss) -> None:
    p, y, weight = draw()
    weight[:, 1] = 0

    each, dp = loss(p, y, weight)

    assert not each[:, 1].any()
    assert not dp[:, 1].any()
    assert each[:, [0, 2]].all()
    assert dp[:, [0, 2]].all()


@every_loss
def test_a_right_forecast_costs_nothing_and_a_worse_one_more(loss: Loss) -> None:
    _, y, weight = draw()
    errors = [loss(y + offset, y, weight)[0].sum() for offset in (0.0, 0.1, 1.0)]
    assert errors[0] == 0
    assert errors[0] < errors[1] < errors[2]


@every_loss
def test_arguments_are_only_read(loss: Loss) -> None:
    arguments = draw()
    kept = [a.copy() for a in arguments]
    loss(*arguments)
    for before, after in zip(kept, arguments, strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_score_of_a_row_is_its_clipped_mean_square_over_labelled_outputs() -> None:
    p, y, weight = draw()
    weight = (weight > 0.5).astype(np.float64)
    p[0, 0, 0], weight[0, 0, 0] = y[0, 0, 0] + 1e9, 1  # absurd, and bounded

    got = clipped_score(p, y, weight)

    for row in range(SHAPE[1]):
        terms = [
            min((p[t, row, o] - y[t, row, o]) ** 2, 4.0) / 4.0
            for t in range(SHAPE[0]) for o in range(SHAPE[2]) if weight[t, row, o]
        ]  # fmt: skip
        np.testing.assert_allclose(got[row], np.mean(terms), rtol=1e-12)
    assert (got <= 1).all()


def test_a_forecast_that_is_not_a_number_scores_worst() -> None:
    p, y, _ = draw()
    p[:, 0] = np.nan
    got = clipped_score(p, y, np.ones(SHAPE))
    assert got[0] == 1
    assert (got[1:] < 1).all()
