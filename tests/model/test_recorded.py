"""A whole series seen at once: the same features, labels and masks as online."""

from __future__ import annotations

import numpy as np
import pytest

from model import calendar
from model.fold.learner import Learner
from model.network import Network
from model.offline.recorded import Recorded, known_by, prepare, settle
from model.offline.training import forecasts, loss_of
from tests.model.scaled import gaps
from tests.model.worlds import INTERVAL_S, START_S, spec
from tests.oracles.slow_scaler import SLOW_SCALERS, SlowScaler

TICKS = 90


def series(ticks: int = TICKS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two wandering channels of different size, and event times."""
    rng = np.random.default_rng(seed)
    x = np.array([5, 1e4]) + np.cumsum(rng.normal(0, (1, 30), (ticks, 2)), axis=0)
    return x.astype(np.float32), START_S + INTERVAL_S * np.arange(ticks)


def settled(network: Network, x: np.ndarray, time: np.ndarray, labels: np.ndarray | None = None) -> Recorded:
    """With the labels in the units of all of them."""
    return settle(network, network.weights(network.init_params()), prepare(network, x, time, labels), len(x))


@pytest.mark.parametrize("scaler", sorted(SLOW_SCALERS))
def test_features_and_labels_are_what_the_plain_definition_says(scaler: str) -> None:
    network = Network(spec(horizon=3, targets=["b"], scaler=scaler))
    x, time = series()
    recorded = settled(network, x, time)

    slow = SlowScaler(scaler, 2, 3)
    for t in range(TICKS):
        features, scale = slow.update(x[t].astype(np.float64))
        row = np.concatenate([features, calendar.inputs(time[t : t + 1], INTERVAL_S)[0]])
        np.testing.assert_allclose(recorded.X[t], row, atol=2e-4)  # float32 statistics of values near 1e4
        for h in (1, 2, 3):
            labelled = t + h < TICKS and scale[h - 1][1] > 0
            assert recorded.weight[t, h - 1] == labelled
            if labelled:
                y = np.clip((float(x[t + h, 1]) - float(x[t, 1])) / scale[h - 1][1], -8, 8)
                np.testing.assert_allclose(recorded.Y[t, h - 1], y, atol=1e-3)
            else:
                assert recorded.Y[t, h - 1] == 0


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"horizon": 4, "targets": ["b"]},
        {"layers": 2, "cell": "gru"},
        {"max_gap": 2e4},
        {"scaler": "standard"},
        {"missing": "hold", "horizon": 3},
    ],
)
def test_the_loss_at_every_tick_is_the_one_the_online_learner_reports(keys: dict[str, object]) -> None:
    # A step this small leaves every float32 weight as it is: the learner then judges the same weights at every tick.
    learner = Learner(spec(head_init=0.3, window=TICKS, learning_rate=1e-30, **keys))
    x, time = series()
    time[50:] += 1e5  # a gap, which only max_gap minds
    if "missing" in keys:
        x = gaps(x).astype(np.float32)
    online = {}
    for t in range(TICKS):
        now = slice(t, t + 1)
        for update in learner.ticks(np.zeros(1, np.uint32), np.array([t + 1], np.uint64), time[now], x[now]):
            online[t] = update.loss

    network, H = learner.network, learner.spec.horizon
    recorded = settled(network, x, time)
    p = forecasts(network, learner.weights, recorded, 0, TICKS)
    each, _ = network.loss(p, recorded.Y, recorded.weight)
    by_head = each.reshape(TICKS, H, -1).sum(axis=2)
    offline = {
        t: sum(by_head[t - h, h - 1] for h in range(1, min(t, H) + 1))
        for t in range(TICKS)
        if any(recorded.weight[t - h].reshape(H, -1)[h - 1].any() for h in range(1, min(t, H) + 1))
    }
    assert online.keys() == offline.keys()
    np.testing.assert_allclose([*online.values()], [*offline.values()], rtol=1e-4, atol=1e-6)  # float32, other order
    assert recorded.voided == learner.counts.voided
    assert (recorded.voided > 0) == ("max_gap" in keys)


def test_labels_from_behind_the_last_known_tick_are_masked_and_others_are_not() -> None:
    network = Network(spec(horizon=3))
    whole = settled(network, *series())
    for end in (1, 2, 40, TICKS):
        part = settled(network, *(values[:end] for values in series()))
        np.testing.assert_array_equal(known_by(whole, 3, end), part.weight)


def test_a_head_has_labels_once_a_difference_of_its_step_gave_it_a_scale() -> None:
    recorded = settled(Network(spec(horizon=8, window=16)), *series(5))
    per_head = recorded.weight.reshape(5, 8, 2).any(axis=2).sum(axis=0)
    assert per_head.tolist() == [3, 1] + [0] * 6  # head h: origins h .. 4 − h, counted from 0


def test_without_event_times_there_is_no_calendar_and_no_gap() -> None:
    network = Network(spec(interval=0.0, max_gap=1.0))
    x, _ = series()
    recorded = settled(network, x, np.full(TICKS, np.nan))
    assert recorded.X.shape == (TICKS, 6)
    assert recorded.voided == 0


def test_a_channel_that_never_moves_gives_finite_rows_and_labels_of_zero() -> None:
    network = Network(spec())
    x, time = series()
    x[:, 0] = 7
    recorded = settled(network, x, time)
    assert all(np.isfinite(part).all() for part in recorded[:5])
    assert not recorded.Y[:, 0].any()
    assert np.isfinite(loss_of(network, recorded, np.zeros_like(recorded.Y), 0, TICKS))
    assert isinstance(recorded, Recorded)


def test_labels_from_outside_are_targets_in_the_units_that_the_train_ticks_give() -> None:
    network = Network(spec(task="regress", targets=["y", "z"]))
    x, time = series()
    labels = np.random.default_rng(1).normal((1e5, 3), (20, 0.1), (TICKS, 2)).astype(np.float32)
    labels[10:20, 0] = np.nan
    labels[60:] += 1000  # behind the train ticks: no unit may know of it
    weights = network.weights(network.init_params())
    recorded = settle(network, weights, prepare(network, x, time, labels), 60)

    train = labels[:60].astype(np.float64)
    mean, deviation = np.nanmean(train, axis=0), np.nanstd(train, axis=0)  # below 500 labels, running means are plain
    np.testing.assert_allclose(weights.target["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(weights.target["scale"], deviation, rtol=1e-3)
    np.testing.assert_array_equal(recorded.weight, ~np.isnan(labels))
    expected = np.nan_to_num(np.clip((labels - mean) / deviation, -8, 8))
    np.testing.assert_allclose(recorded.Y, expected, atol=2e-3)  # float32 labels near 1e5, of deviation 20


def test_classes_are_targets_as_they_came_and_ticks_without_one_have_no_weight() -> None:
    network = Network(spec(task="classify", classes=["up", "down", "flat"]))
    x, time = series()
    labels = np.eye(3, dtype=np.float32)[np.random.default_rng(1).integers(0, 3, TICKS)]
    labels[::4] = np.nan
    recorded = settled(network, x, time, labels)
    np.testing.assert_array_equal(recorded.Y, np.nan_to_num(labels))
    np.testing.assert_array_equal(recorded.weight, ~np.isnan(labels))
