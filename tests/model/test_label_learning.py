"""Learning from late labels and whole windows equals the slow learner, which shares no arithmetic with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model.fold.learner import Learner
from tests.model.labelled import Labels, Window, label_spec, labels_of, world
from tests.model.worlds import Chunk, chunks, feed
from tests.oracles.slow_labels import SlowLabelLearner

# float32 against float64, as in test_learner: each sum is rounded by 6e-8, over a hundred updates of at most RATE.
WEIGHT_TOLERANCE = 2e-5
RATE = 5e-3

every_task = pytest.mark.parametrize("task", ["regress", "classify"])


def pair(task: str, **fields: Any) -> tuple[Learner, SlowLabelLearner]:
    """Return both learners with the same first weights, none of them zero."""
    learner = Learner(label_spec(task, **{"learning_rate": RATE, "head_init": 0.2, "window": 9, **fields}))
    return learner, SlowLabelLearner(learner.spec, learner.network.layout.views(learner.weights.flat))


def both(learner: Learner, slow: SlowLabelLearner, event: Chunk | Labels) -> list[float]:
    """Feed one event to both and assert that both reject the same labels. Returns the losses."""
    if isinstance(event, Chunk):
        feed(learner, event)
        slow.ticks(*event[:3], event.x.astype(np.float64))
        return []
    updates, rejected = learner.labels(*event)
    assert {r.index: r.reason for r in rejected} == slow.labels(*event[:2], event.y.astype(np.float64))
    return [u.loss for u in updates]


def difference(learner: Learner, slow: SlowLabelLearner) -> float:
    """Return the largest difference of a weight; label statistics relative to their scale."""
    views = learner.network.layout.views(learner.weights.flat)
    out = [float(np.abs(views[name] - value).max()) for name, value in slow.params.items() if "target" not in name]
    if learner.spec.task == "regress":
        mean, scale = np.array([(s.mean, s.scale) for s in slow.statistics]).T
        out += np.abs((views["target.mean"] - mean) / scale).tolist()
        out += np.abs((views["target.scale"] - scale) / scale).tolist()
    return max(out)


def moved(learner: Learner) -> float:
    trained = slice(0, learner.network.readout.start)
    return float(np.abs(learner.weights.flat - learner.network.init_params())[trained].max())


@every_task
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("layers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_learning_from_late_labels_equals_the_slow_learner(task: str, cell: str, layers: int) -> None:
    learner, slow = pair(task, cell=cell, layers=layers)
    losses = []
    for event in world(learner.spec, [1, 7, 1, 12, 10, 2, 9] * 8):
        losses += both(learner, slow, event)

    assert learner.counts.learned > 250
    assert moved(learner) > 10 * RATE
    assert difference(learner, slow) < WEIGHT_TOLERANCE
    np.testing.assert_allclose(losses, slow.losses, rtol=1e-4, atol=1e-5)


def start_with_the_weights_of_now(slow: SlowLabelLearner, stream: Any, tick: int) -> Any:
    state = np.zeros(slow.state_size)
    for feature in stream.features[:tick]:
        state = slow.network_step(state, feature)[0]
    return state


def follow_without_rescaling(slow: SlowLabelLearner, labels: Any) -> None:
    kept = slow.params["head.W"].copy()
    SlowLabelLearner.follow(slow, labels)
    slow.params["head.W"][...] = kept


@pytest.mark.parametrize(
    ("rule", "broken"),
    [
        ("first", lambda slow, tick: max(0, tick - slow.spec.window)),
        ("start", start_with_the_weights_of_now),
        ("follow", follow_without_rescaling),
    ],
)
def test_the_comparison_detects_a_broken_rule(rule: str, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, slow = pair("regress")
    monkeypatch.setattr(slow, rule, lambda *args: broken(slow, *args))
    for event in world(learner.spec, [10] * 20):
        both(learner, slow, event)

    assert difference(learner, slow) > 10 * WEIGHT_TOLERANCE


@pytest.mark.parametrize("task", ["forecast", "regress", "classify"])
@pytest.mark.parametrize("layers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_learning_from_whole_windows_equals_the_slow_learner(task: str, layers: int) -> None:
    learner, slow = pair(task, layers=layers, **({"horizon": 2, "window": 16} if task == "forecast" else {}))
    rng, outputs = np.random.default_rng(3), learner.spec.outputs
    for chunk in chunks([15] * 40, entities=1):
        weight = rng.random((13, outputs)).astype(np.float32) * (rng.random((13, 1)) < 0.7)
        y = labels_of(learner.spec, chunk.x[:13], rng)
        if task == "forecast":
            y = np.concatenate([chunk.x[1:14], chunk.x[2:15]], axis=1)
        window = Window(chunk.x[:13], y, weight)
        shorter = Window(*(part[:10] for part in window[:3]))
        updates, rejected = learner.windows([window, shorter])
        slow.windows([window, shorter])
        assert not rejected
        np.testing.assert_allclose(updates[0].loss, slow.losses[-1], rtol=1e-4, atol=1e-5)

    assert moved(learner) > 10 * RATE
    assert difference(learner, slow) < WEIGHT_TOLERANCE
