"""Clipping of gradients, and the report about them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from model.fold.learner import REPORT_EVERY, Learner
from model.update.gradients import clip_by_global_norm, layer_norms
from tests.model.worlds import chunks, feed, spec


def test_a_gradient_over_the_limit_is_scaled_to_it_and_keeps_its_direction() -> None:
    grad = np.array([3.0, 4.0, 0.0], np.float32)
    assert clip_by_global_norm(grad, 1.0) == 5.0
    np.testing.assert_allclose(grad, [0.6, 0.8, 0.0], rtol=1e-7)


@pytest.mark.parametrize("limit", [5.0, 6.0])
def test_a_gradient_within_the_limit_is_unchanged_bit_for_bit(limit: float) -> None:
    grad = np.array([3.0, 4.0, 0.0], np.float32)
    kept = grad.copy()
    assert clip_by_global_norm(grad, limit) == 5.0
    np.testing.assert_array_equal(grad, kept)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_a_gradient_whose_norm_is_not_finite_is_refused_and_unchanged(bad: float) -> None:
    grad = np.array([1.0, bad, 2.0], np.float32)  # 1e30 squared is beyond float32
    kept = grad.copy()
    with np.errstate(over="ignore"), pytest.raises(FloatingPointError, match=r"gradient norm is (nan|inf)"):
        clip_by_global_norm(grad, 1.0)
    np.testing.assert_array_equal(grad, kept)


def test_the_norms_by_layer_add_up_to_the_total() -> None:
    learner = Learner(spec(layers=3, forecaster="network"))
    grad = np.random.default_rng(0).normal(0, 1, learner.network.layout.size).astype(np.float32)
    by_layer = layer_norms(grad, learner.network.layers)
    assert list(by_layer) == ["cell0", "cell1", "cell2", "head"]
    np.testing.assert_allclose(math.hypot(*by_layer.values()), np.linalg.norm(grad.astype(np.float64)), rtol=1e-6)


def test_a_report_has_norms_before_and_after_clipping_by_layer_and_by_lag() -> None:
    learner = Learner(spec(head_init=0.2, clip=0.5, layers=2))
    updates = [update for chunk in chunks([3] * 60, once=True) for update in feed(learner, chunk)]
    reports = [update.report for update in updates if update.report]

    assert len(reports) == math.ceil(len(updates) / REPORT_EVERY)
    for update, report in zip(updates[::REPORT_EVERY], reports, strict=True):
        assert report is not None
        assert report.norm == update.norm
        assert report.clipped_norm == min(report.norm, 0.5)
        np.testing.assert_allclose(math.hypot(*report.by_layer.values()), report.norm, rtol=1e-5)
        assert 0 < report.update_ratio < 1
        assert report.lag_norms.keys() == report.saturated.keys() == {"cell0", "cell1"}
        assert all(0 <= share <= 1 for share in report.saturated.values())
        for norms in report.lag_norms.values():
            assert len(norms) <= learner.spec.window
            assert norms[0] > 0
    assert any(report.norm > 0.5 for report in reports if report)
    assert learner.counts.clipped == sum(update.norm > 0.5 for update in updates) > 0
