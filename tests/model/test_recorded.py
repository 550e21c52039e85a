"""A whole series prepared at once: features, labels and masks are those of online learning."""

from __future__ import annotations

import numpy as np
import pytest

from model import calendar
from model.fold.learner import Learner
from model.network import Network
from model.offline.recorded import Recorded, known_by, prepare, scale_labels
from model.offline.training import forecasts, loss_of
from tests.model.scaled import gaps
from tests.model.worlds import INTERVAL_S, START_S, spec
from tests.oracles.slow_scaler import SLOW_SCALERS, SlowScaler

TICKS = 90


def series(ticks: int = TICKS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return two random walks of different sizes, and event times."""
    rng = np.random.default_rng(seed)
    x = np.array([5, 1e4]) + np.cumsum(rng.normal(0, (1, 30), (ticks, 2)), axis=0)
    return x.astype(np.float32), START_S + INTERVAL_S * np.arange(ticks)


def scaled(network: Network, x: np.ndarray, time: np.ndarray, labels: np.ndarray | None = None) -> Recorded:
    """Return the prepared series with labels in units of all labels."""
    return scale_labels(network, network.weights(network.init_params()), prepare(network, x, time, labels), len(x))


@pytest.mark.parametrize("scaler", sorted(SLOW_SCALERS))
def test_features_and_labels_equal_the_plain_definition(scaler: str) -> None:
    network = Network(spec(horizon=3, targets=["b"], scaler=scaler))
    x, time = series()
    recorded = scaled(network, x, time)

    slow = SlowScaler(scaler, 2, 3)
    for t in range(TICKS):
        features, scale = slow.update(x[t].astype(np.float64))
        row = np.concatenate([features, calendar.inputs(time[t : t + 1], INTERVAL_S)[0]])
        np.testing.assert_allclose(recorded.X[t], row, atol=2e-4)  # rounding of float32 statistics of values near 1e4
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
def test_the_loss_of_every_tick_equals_the_loss_of_the_online_learner(keys: dict[str, object]) -> None:
    # A step this small does not change any float32 weight: the learner scores the same weights at every tick.
    learner = Learner(spec(head_init=0.3, window=TICKS, learning_rate=1e-30, forecaster="network", **keys))
    x, time = series()
    time[50:] += 1e5  # a gap that only matters with max_gap
    if "missing" in keys:
        x = gaps(x).astype(np.float32)
    online = {}
    for t in range(TICKS):
        now = slice(t, t + 1)
        for update in learner.ticks(np.zeros(1, np.uint32), np.array([t + 1], np.uint64), time[now], x[now]):
            online[t] = update.loss

    network, H = learner.network, learner.spec.horizon
    recorded = scaled(network, x, time)
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


def test_labels_after_the_last_known_tick_are_masked_and_others_are_not() -> None:
    network = Network(spec(horizon=3))
    whole = scaled(network, *series())
    for end in (1, 2, 40, TICKS):
        part = scaled(network, *(values[:end] for values in series()))
        np.testing.assert_array_equal(known_by(whole, 3, end), part.weight)


def test_a_head_has_labels_once_a_difference_over_its_step_gives_it_a_scale() -> None:
    recorded = scaled(Network(spec(horizon=8, window=16)), *series(5))
    per_head = recorded.weight.reshape(5, 8, 2).any(axis=2).sum(axis=0)
    assert per_head.tolist() == [3, 1] + [0] * 6  # head h: origins h .. 4 − h, counted from 0


def test_without_event_times_there_is_no_calendar_and_no_gap() -> None:
    network = Network(spec(interval=0.0, max_gap=1.0))
    x, _ = series()
    recorded = scaled(network, x, np.full(TICKS, np.nan))
    assert recorded.X.shape == (TICKS, 6)
    assert recorded.voided == 0


def test_a_constant_channel_gives_finite_rows_and_zero_labels() -> None:
    network = Network(spec())
    x, time = series()
    x[:, 0] = 7
    recorded = scaled(network, x, time)
    assert all(np.isfinite(part).all() for part in recorded[:5])
    assert not recorded.Y[:, 0].any()
    assert np.isfinite(loss_of(network, recorded, np.zeros_like(recorded.Y), 0, TICKS))
    assert isinstance(recorded, Recorded)


def test_external_labels_are_targets_in_units_of_the_train_ticks() -> None:
    network = Network(spec(task="regress", targets=["y", "z"]))
    x, time = series()
    labels = np.random.default_rng(1).normal((1e5, 3), (20, 0.1), (TICKS, 2)).astype(np.float32)
    labels[10:20, 0] = np.nan
    labels[60:] += 1000  # after the train ticks: must not affect units
    weights = network.weights(network.init_params())
    recorded = scale_labels(network, weights, prepare(network, x, time, labels), 60)

    train = labels[:60].astype(np.float64)
    # Running means are plain means up to 500 labels.
    mean, deviation = np.nanmean(train, axis=0), np.nanstd(train, axis=0)
    np.testing.assert_allclose(weights.target["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(weights.target["scale"], deviation, rtol=1e-3)
    np.testing.assert_array_equal(recorded.weight, ~np.isnan(labels))
    expected = np.nan_to_num(np.clip((labels - mean) / deviation, -8, 8))
    np.testing.assert_allclose(recorded.Y, expected, atol=2e-3)  # float32 labels near 1e5, of deviation 20


def test_classes_are_unchanged_targets_and_ticks_without_one_have_no_weight() -> None:
    network = Network(spec(task="classify", classes=["up", "down", "flat"]))
    x, time = series()
    labels = np.eye(3, dtype=np.float32)[np.random.default_rng(1).integers(0, 3, TICKS)]
    labels[::4] = np.nan
    recorded = scaled(network, x, time, labels)
    np.testing.assert_array_equal(recorded.Y, np.nan_to_num(labels))
    np.testing.assert_array_equal(recorded.weight, ~np.isnan(labels))
