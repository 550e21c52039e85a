"""The loss of persistence on the learned labels, to compare the loss of a model with."""

from __future__ import annotations

import math

import numpy as np
import pytest

from model.fold.learner import Learner
from model.scalers import SCALERS
from tests.model.worlds import chunks, feed, spec


@pytest.mark.parametrize("scaler", sorted(SCALERS))
@pytest.mark.parametrize("horizon", [1, 3])
def test_the_loss_of_persistence_equals_that_of_a_twin_with_a_zero_readout(scaler, horizon):
    fields = {"scaler": scaler, "horizon": horizon, "forecaster": "network"}
    learner, twin = Learner(spec(**fields)), Learner(spec(**fields, freeze=["head"]))

    updates, theirs = ([u for c in chunks([9] * 20) for u in feed(one, c)] for one in (learner, twin))

    assert [u.persistence for u in updates] == [u.loss for u in theirs]
    assert updates[-1].loss != updates[-1].persistence


def test_for_classification_it_is_the_loss_of_equal_probabilities():
    learner = Learner(spec(task="classify", classes=["a", "b", "c", "d"], interval=0, learning_rate=0.05))
    n = 40
    ones, seq = np.ones(n, np.uint32), np.arange(1, n + 1, dtype=np.uint64)
    learner.ticks(ones, seq, np.full(n, np.nan), np.zeros((n, len(learner.spec.channels)), np.float32))

    updates, rejected = learner.labels(ones, seq, np.eye(4, dtype=np.float32)[np.arange(n) % 4])

    assert not rejected
    assert [u.persistence for u in updates] == pytest.approx([math.log(4)] * len(updates))
