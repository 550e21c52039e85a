"""Guards of every update: an update that would break the weights is refused and changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

import model.fold.learner
from model.fold.learner import Learner
from model.update.bptt import gradient
from model.update.contract import OptimizerState
from model.update.gradients import check_finite, relative_change
from model.update.optimizers import SGD
from tests.model import worlds

CHUNKS = worlds.chunks([4] * 24, once=True)
BROKEN_AT = 15


class Breaking(SGD):
    """Gradient descent with one step that writes an impossible weight."""

    __slots__ = ()
    value = np.inf
    steps = 0

    def update(self, params: np.ndarray, grad: np.ndarray, state: OptimizerState, rate: float) -> None:
        super().update(params, grad, state, rate)
        Breaking.steps += 1
        if Breaking.steps == BROKEN_AT:
            params[3] = self.value


def learner_that_breaks(monkeypatch: pytest.MonkeyPatch, value: float) -> Learner:
    monkeypatch.setattr(Breaking, "value", value)
    monkeypatch.setattr(Breaking, "steps", 0)
    learner = Learner(worlds.spec(head_init=0.3))
    learner.optimizer = Breaking()
    return learner


def broken_update_is_undone(learner: Learner) -> bool:
    """Return whether exactly one update is refused and the weights are unchanged bit for bit."""
    refused = 0
    for chunk in CHUNKS:
        before = learner.weights.flat.copy()
        updates = learner.ticks(*chunk)
        assert len(updates) <= 1
        if updates and updates[0].refused:
            refused += 1
            if learner.weights.flat.tobytes() != before.tobytes() or learner.optimizer_state.step:
                return False
    finite = bool(np.isfinite(learner.weights.flat).all())
    return refused == learner.counts.refused == 1 and finite and learner.counts.updates > BROKEN_AT


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e30])
def test_an_update_that_breaks_the_weights_is_undone_and_counted_and_learning_continues(monkeypatch, value):
    assert broken_update_is_undone(learner_that_breaks(monkeypatch, value))


def test_the_guard_test_detects_a_learner_that_does_not_check_its_weights(monkeypatch):
    learner = learner_that_breaks(monkeypatch, np.nan)
    monkeypatch.setattr(model.fold.learner, "check_finite", lambda weights: None)

    assert not broken_update_is_undone(learner)


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_an_update_with_a_loss_that_is_not_finite_is_refused_and_names_the_ticks_of_its_labels(monkeypatch, loss):
    learner = Learner(worlds.spec(head_init=0.3))
    learner.ticks(*CHUNKS[0])
    learner.ticks(*CHUNKS[1])
    before = learner.weights.flat.copy()
    monkeypatch.setattr("model.fold.learner.gradient", lambda *given: (loss, *gradient(*given)[1:]))

    updates = learner.ticks(*worlds.Chunk._make(np.concatenate(parts) for parts in zip(*CHUNKS[2:4], strict=True)))

    assert [update.refused for update in updates] == [f"loss is {loss}"] * 2
    assert sorted(at for update in updates for at in update.refused_ticks) == list(range(8))
    np.testing.assert_array_equal(learner.weights.flat, before)


def test_movement_is_relative_to_the_previous_weights():
    before = np.array([3.0, 4.0], np.float32)

    assert relative_change(before, before) == 0
    assert relative_change(np.array([3.0, 9.0], np.float32), before) == 1
    assert relative_change(before, np.zeros(2, np.float32)) > 1e9


def test_weights_whose_norm_overflows_count_as_not_finite():
    check_finite(np.full(4, 1e18, np.float32))
    with pytest.raises(FloatingPointError, match="squared norm is inf"):
        check_finite(np.full(4, 1e20, np.float32))
