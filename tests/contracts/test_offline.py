"""Every cell × task × loss trains offline on a history, and its weights continue online."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from model.network import Network
from model.offline.recorded import Recorded, prepare
from model.offline.training import OfflineSettings, OfflineTraining, forecasts
from model.parameters import Array
from model.spec import ModelSpec
from tests.conftest import covering
from tests.contracts import registry

KINDS, OBJECTIVES = registry.cells(brief=True), registry.objectives()
TICKS, TRAIN = 480, 400


def history(spec: ModelSpec) -> tuple[Array, Array | None]:
    """Return two noisy waves [TICKS, 2] and, for tasks with labels, labels [TICKS, O]: values or classes by thirds."""
    phase = 0.4 * np.arange(TICKS)[:, None]
    x = np.sin(phase + np.arange(2)) + np.random.default_rng(0).normal(0, 0.05, (TICKS, 2))
    others = 100 + 20 * np.sin(phase + np.arange(2, 4))
    third = np.eye(3)[np.digitize(np.sin(phase[:, 0]), [-0.5, 0.5])]
    labels = {"forecast": None, "regress": others, "classify": third}[spec.task]
    return x.astype(np.float32), None if labels is None else labels.astype(np.float32)


def trained(spec: ModelSpec, recorded: Recorded, settings: OfflineSettings) -> tuple[OfflineTraining, list[float]]:
    training = OfflineTraining(Network(spec), recorded, TRAIN, settings)
    return training, [epoch.held_out for epoch in training.epochs()]


@pytest.mark.parametrize(("kind", "objective"), covering(registry.pairs(brief=True)))
def test_the_held_out_loss_falls_and_online_answers_equal_the_offline_ones(kind: str, objective: str) -> None:
    fields: dict[str, Any] = {**KINDS[kind], **OBJECTIVES[objective]}
    spec = ModelSpec(channels=("a", "b"), hidden=6, learning_rate=1e-2, window=16, seed=3, **fields)
    x, labels = history(spec)
    time = np.full(TICKS, np.nan)
    recorded = prepare(Network(spec), x, time, labels)
    settings = OfflineSettings.truncated(15, 15, TRAIN, spec.window)
    training, losses = trained(spec, recorded, settings)
    assert math.isfinite(losses[0])
    assert training.best.loss < 0.5 * losses[0]

    again, _ = trained(spec, recorded, settings)
    np.testing.assert_array_equal(again.best.flat, training.best.flat)

    network, weights = training.network, training.network.weights(training.best.flat)
    p = forecasts(network, weights, training.recorded, 0, TICKS)
    state, answered, expected = np.zeros((1, network.state_size), np.float32), [], []
    for t in range(TICKS):
        y, state = network.step(weights, x[t : t + 1], np.zeros((1, 0), np.float32), state)
        answered.append(y[0, : spec.outputs])
        last, scale = training.recorded.last[t : t + 1], training.recorded.scale[t : t + 1]
        expected.append(network.task.answer(weights.target, p[t : t + 1], last, scale)[0])
    # Single ticks and one long run sum float32 terms in different orders; answers are of size 100.
    np.testing.assert_allclose(answered, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(answered).max()))
