"""The learner equals the slow learner of tests/oracles, which shares no arithmetic with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model.fold.learner import Learner
from model.parameters import Array
from model.scalers import SCALERS
from model.spec import ModelSpec
from model.update.optimizers import OPTIMIZERS
from model.update.schedules import SCHEDULES
from tests.contracts import registry
from tests.model.worlds import Chunk, Server, chunks, feed, spec, with_gaps
from tests.oracles.slow_learner import SlowLearner

# float32 against float64: a weight near 1 changes about 150 times, each sum is rounded by 6e-8; measured 3e-7 to 4e-6.
# A rule broken on purpose changes the weights a hundred times more (the last test).
WEIGHT_TOLERANCE = 2e-5
RATE = 5e-3
KINDS = registry.cells(brief=True)

every_cell_and_horizon = pytest.mark.parametrize(
    ("cell", "horizon", "every"),
    [
        pytest.param(c, h, k, marks=() if (h, k) == (3, 2) else pytest.mark.long)
        for c in KINDS
        for h in (1, 3)
        for k in (1, 2)
    ],
)


def pair(**fields: Any) -> tuple[Learner, SlowLearner]:
    """Return both learners with the same first weights. The readout is random: all layers learn from the start."""
    learner = Learner(
        spec(**{"learning_rate": RATE, "head_init": 0.2, "targets": ["b", "a"], "forecaster": "network", **fields})
    )
    return learner, SlowLearner(learner.spec, learner.network.layout.views(learner.weights.flat))


def slow_ticks(slow: SlowLearner, chunk: Chunk, learn_every: int = 1) -> Array:
    forecasts: Array = slow.ticks(*chunk[:3], chunk.x.astype(np.float64), learn_every)
    return forecasts.reshape(len(chunk.x), -1)


def difference(learner: Learner, slow: SlowLearner) -> float:
    views = learner.network.layout.views(learner.weights.flat)
    return max(float(np.abs(views[name] - value).max()) for name, value in slow.params.items())


def moved(learner: Learner) -> float:
    return float(np.abs(learner.weights.flat - learner.network.init_params()).max())


@every_cell_and_horizon
@pytest.mark.parametrize("layers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_weights_and_losses_after_interleaved_streams_equal_the_slow_learner(
    cell: str, horizon: int, every: int, layers: int
) -> None:
    learner, slow = pair(**KINDS[cell], horizon=horizon, learn_every=every, layers=layers, window=horizon + every + 7)
    losses = []
    for chunk in chunks([1, 7, 1, 12, 30, 2, 9] * 3):
        losses += [update.loss for update in feed(learner, chunk)]
        slow_ticks(slow, chunk)

    assert moved(learner) > 10 * RATE
    assert difference(learner, slow) < WEIGHT_TOLERANCE
    np.testing.assert_allclose(losses, slow.losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scaler", sorted(SCALERS))
def test_every_scaler_learns_as_the_slow_learner(scaler: str) -> None:
    learner, slow = pair(scaler=scaler, horizon=3)
    for chunk in chunks([10] * 20):
        near_one = chunk._replace(x=(chunk.x / (1, 100)).astype(np.float32))  # the scaler none expects values near 1
        feed(learner, near_one)
        slow_ticks(slow, near_one)

    assert moved(learner) > 10 * RATE
    assert difference(learner, slow) < WEIGHT_TOLERANCE


@pytest.mark.parametrize("scaler", sorted(SCALERS))
@pytest.mark.parametrize(("horizon", "every"), [(3, 2), *(pytest.param(h, 1, marks=pytest.mark.long) for h in (1, 3))])
def test_learning_with_missing_values_equals_the_slow_learner(scaler: str, horizon: int, every: int) -> None:
    learner, slow = pair(scaler=scaler, horizon=horizon, learn_every=every, missing="hold", max_gap=4000.0)
    server, losses = Server(learner), []
    for k, chunk in enumerate(with_gaps(chunks([4] * 60, once=True))):
        late = chunk._replace(x=(chunk.x / (1, 100)).astype(np.float32), time=chunk.time + 1e5 * (k // 25))
        losses += [update.loss for update in feed(learner, late, learn_every=1 + k // 40)]
        got, expected = server.forecasts(late), slow_ticks(slow, late, learn_every=1 + k // 40)
        np.testing.assert_allclose(got, expected, rtol=0, atol=10 * WEIGHT_TOLERANCE)

    assert moved(learner) > 10 * RATE
    assert difference(learner, slow) < WEIGHT_TOLERANCE
    np.testing.assert_allclose(losses, slow.losses, rtol=1e-4, atol=1e-5)
    assert (learner.counts.learned, learner.counts.thinned) == (slow.learned, slow.thinned)
    assert learner.counts.voided == slow.voided > 0


@every_cell_and_horizon
def test_forecasts_during_learning_equal_the_slow_learner(cell: str, horizon: int, every: int) -> None:
    learner, slow = pair(**KINDS[cell], horizon=horizon, learn_every=every)
    server = Server(learner)
    for chunk in chunks([3] * 60, once=True):
        feed(learner, chunk)
        got, expected = server.forecasts(chunk), slow_ticks(slow, chunk)
        # Channel b is near 300 with a spread of 60: float32 resolves 3e-5 there; weight errors are scaled by 60.
        np.testing.assert_allclose(got, expected, rtol=0, atol=60 * WEIGHT_TOLERANCE)
    assert moved(learner) > 10 * RATE


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize(
    "schedule", [pytest.param(s, marks=() if s == "cosine" else pytest.mark.long) for s in sorted(SCHEDULES)]
)
def test_every_optimizer_and_schedule_learns_as_the_slow_learner(optimizer: str, schedule: str) -> None:
    learner, slow = pair(optimizer=optimizer, schedule=schedule, warmup=20, schedule_updates=100)
    for chunk in chunks([1, 7, 1, 12, 30, 2, 9] * 3):
        feed(learner, chunk)
        slow_ticks(slow, chunk)

    assert moved(learner) > 2 * RATE
    assert difference(learner, slow) < WEIGHT_TOLERANCE


def test_the_huber_loss_learns_as_the_slow_learner() -> None:
    # Bounded slopes of ½ and −½ cancel up to rounding, which the first steps of Adam scale up to full steps.
    plain: dict[str, Any] = {"horizon": 3, "optimizer": "momentum", "learning_rate": 10 * RATE}
    learner, slow = pair(loss="huber", huber_delta=0.5, **plain)
    squared, _ = pair(**plain)
    losses = []
    for chunk in chunks([10] * 20):
        losses += [update.loss for update in feed(learner, chunk)]
        feed(squared, chunk)
        slow_ticks(slow, chunk)

    assert difference(learner, slow) < WEIGHT_TOLERANCE
    np.testing.assert_allclose(losses, slow.losses, rtol=1e-4, atol=1e-5)
    assert np.abs(learner.weights.flat - squared.weights.flat).max() > 100 * WEIGHT_TOLERANCE  # some errors exceed ½


@pytest.mark.parametrize("freeze", [["cell0"], ["cell1"], ["head"]], ids="+".join)
def test_with_frozen_parts_the_others_learn_as_the_slow_learner(freeze: list[str]) -> None:
    learner, slow = pair(layers=2, freeze=freeze, clip=0.05)  # the clipped norm matters
    for chunk in chunks([1, 7, 1, 12, 30, 2, 9] * 3):
        feed(learner, chunk)
        slow_ticks(slow, chunk)

    assert learner.counts.clipped > 10
    assert difference(learner, slow) < WEIGHT_TOLERANCE


def test_a_round_of_more_than_32_streams_is_learned_in_groups_of_at_most_32() -> None:
    learner, slow = pair()
    for chunk in chunks([75] * 12, entities=40):
        feed(learner, chunk)
        slow_ticks(slow, chunk)

    assert learner.counts.updates == len(slow.losses) > 2 * 12
    assert difference(learner, slow) < WEIGHT_TOLERANCE


def test_event_time_gaps_and_recorded_thinning_equal_the_slow_learner() -> None:
    learner, slow = pair(horizon=3, learn_every=2, max_gap=4000.0)
    for k, chunk in enumerate(chunks([10] * 20)):
        late = chunk._replace(time=chunk.time + 1e5 * (k // 7))  # every stream has two gaps
        feed(learner, late, learn_every=1 + k // 10)
        slow_ticks(slow, late, learn_every=1 + k // 10)

    assert learner.counts.voided == slow.voided > 0
    assert learner.counts.updates == len(slow.losses)
    assert (learner.counts.learned, learner.counts.thinned) == (slow.learned, slow.thinned)
    assert slow.thinned > 0
    assert difference(learner, slow) < WEIGHT_TOLERANCE


def test_with_learning_off_no_weight_changes_and_forecasts_equal_the_slow_learner() -> None:
    learner, slow = pair(learn=False)
    server = Server(learner)
    for chunk in chunks([3] * 20, once=True):
        assert feed(learner, chunk) == []
        np.testing.assert_allclose(server.forecasts(chunk), slow_ticks(slow, chunk), rtol=0, atol=60 * WEIGHT_TOLERANCE)
    assert moved(learner) == 0


@pytest.mark.parametrize("broken", ["newest label missed", "window one longer", "start state with newer weights"])
def test_the_comparison_detects_a_broken_rule(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, slow = pair(window=9)
    if broken == "newest label missed":
        monkeypatch.setattr(slow, "due", lambda *args: SlowLearner.due(slow, *args) if args[1] % 50 else {})
    elif broken == "window one longer":
        slow.spec = spec(learning_rate=RATE, head_init=0.2, targets=["b", "a"], window=10, forecaster="network")
    else:
        move_with_newer_weights(slow, monkeypatch)
    for chunk in chunks([10] * 20):
        feed(learner, chunk)
        slow_ticks(slow, chunk)

    assert difference(learner, slow) > 10 * WEIGHT_TOLERANCE


def move_with_newer_weights(slow: SlowLearner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Advance the start state after the update of its group instead of before it."""

    def update(rows: Any, due: Any) -> None:
        SlowLearner.update(slow, rows, due)
        for stream in rows:
            if len(stream.values) >= slow.spec.window:
                n = len(stream.starts) - 2
                stream.starts[-1] = slow.network_step(stream.starts[n], stream.features[n])[0]

    monkeypatch.setattr(slow, "update", update)


def test_network_and_learner_show_sizes_and_progress():
    learner = Learner(ModelSpec(channels=("a", "b"), hidden=8, forecaster="network"))
    network = "Network(forecast, lstm 1×8, 2 channels, 2 outputs, 446 parameters, state of 35)"
    assert repr(learner) == f"Learner({network}, 0 updates, 0 labels, 0 streams)"
    assert repr(learner.network.layout) == "Layout(cell0.W 32×13, head.W 2×15: 446 parameters)"
    assert repr(learner.weights) == "Weights(446 float32: 1 cells, head, 0 of experts, 0 target)"
