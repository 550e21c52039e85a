"""Every cell × task × loss × optimizer learns, and continues from a checkpoint to the same bits."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from model.fold.learner import Learner
from model.parameters import Array
from model.spec import ModelSpec
from model.update.optimizers import OPTIMIZERS
from tests.conftest import covering
from tests.contracts import registry
from tests.model.worlds import Checkpoint, digest

KINDS, OBJECTIVES = registry.cells(brief=True), registry.objectives()
UPDATES, TICKS, WINDOWS = 40, 12, 8
# About the largest rates at which all of these are stable. Momentum multiplies the step by 1/(1−momentum).
RATES = {
    "sgd": 0.1, "momentum": 0.02, "nesterov": 0.02, "adam": 0.01, "adamw": 0.01, "adagrad": 0.05, "rmsprop": 0.005,
}  # fmt: skip
registry.proven(OPTIMIZERS, rate=RATES)


# Cells, tasks and losses with each of five optimizers; a loss with a spread with one, and others with one of those.
FIVE = ("adam", "adamw", "momentum", "nesterov", "sgd")
SPREAD = [name for name in OBJECTIVES if OBJECTIVES[name]["loss"] in registry.SPREAD]
CASES = [
    *((kind, name, rule) for kind, name in registry.pairs(brief=True) if name not in SPREAD for rule in FIVE),
    *((kind, name, "adam") for kind, name in registry.pairs(brief=True) if name in SPREAD),
    *((kind, SPREAD[0], rule) for kind in list(KINDS)[:1] for rule in sorted(OPTIMIZERS) if rule not in FIVE),
]


class Window(NamedTuple):
    x: Array
    y: Array
    weight: Array
    initial_state: Array | None = None


def windows(spec: ModelSpec) -> list[Window]:
    """Return windows with two phases of a wave as inputs. Labels: another phase, its sign, or its future."""
    rng, made = np.random.default_rng(0), []
    for _ in range(WINDOWS):
        phase = rng.uniform(0, 6.28) + 0.7 * np.arange(TICKS + spec.horizon)[:, None]
        wave = np.sin(phase + np.arange(2))
        later = np.stack([wave[h : h + TICKS] for h in range(1, spec.horizon + 1)], axis=1).reshape(TICKS, -1)
        hidden = 100 + 20 * np.sin(phase[:TICKS] + np.arange(2, 4))
        third = np.digitize(wave[:TICKS, 0], [-0.5, 0.5])
        y = {"forecast": later, "regress": hidden, "classify": np.eye(3)[third]}[spec.task]
        made.append(Window(wave[:TICKS].astype(np.float32), y.astype(np.float32), np.ones(y.shape, np.float32)))
    return made


# A cell, a loss and an optimizer meet in one vector of weights, and gradients are compared for each pair elsewhere.
@pytest.mark.parametrize(("kind", "objective", "optimizer"), covering(CASES))
def test_the_loss_falls_and_a_learner_restored_half_way_ends_with_the_same_bits(
    kind: str, objective: str, optimizer: str
) -> None:
    fields: dict[str, Any] = {**KINDS[kind], **OBJECTIVES[objective], "optimizer": optimizer}
    spec = ModelSpec(channels=("a", "b"), hidden=6, learning_rate=RATES[optimizer], schedule="inverse_sqrt", **fields)
    learner, checkpoint, restored = Learner(spec), Checkpoint(), None
    losses = []
    for n in range(UPDATES):
        if n == UPDATES // 2:
            checkpoint.save(learner)
            restored = checkpoint.load(spec, learner.contexts.limit)
        (update,), rejected = learner.windows(windows(spec))
        assert not rejected
        losses.append(update.loss)
        if restored is not None:
            restored.windows(windows(spec))

    assert min(losses[-5:]) < 0.75 * losses[1]  # the first update of regress only meets the statistics of its labels
    assert restored is not None
    assert digest(restored) == digest(learner)
