"""The mixture of experts in the fold: equal to its slow twin, causal to the bit, without effect on the cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model.fold.learner import Learner
from model.graph.step import export_step
from model.network import Network
from model.spec import ModelSpec
from tests.graphs import session
from tests.model.labelled import Window
from tests.model.worlds import Checkpoint
from tests.oracles.slow_mixture import SlowMixture

HOUR = 3600.0
SMALL: dict[str, Any] = {
    "channels": ("a", "b"), "forecaster": "mixture", "hidden": 6, "interval": HOUR, "seasons": (6 * HOUR, 24 * HOUR),
}  # fmt: skip
CASES = {
    "one step": SMALL,
    "four steps": SMALL | {"horizon": 4},
    "more steps than a season": SMALL | {"horizon": 9, "targets": ("b",)},
    "no season": SMALL | {"horizon": 2, "seasons": (0.0,)},
    "a season between ticks": SMALL | {"horizon": 2, "seasons": (6.3 * HOUR,)},
}


def series(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two seasonal channels (n, 2) with an outlier, and hourly times with a gap."""
    rng = np.random.default_rng(seed)
    t = np.arange(n) + 5 * (np.arange(n) > n // 2)
    wave = np.sin(2 * np.pi * t / 24)[:, None] * (3, 1) + np.cumsum(rng.normal(0, 0.3, (n, 2)), axis=0)
    wave[70:72] += 40  # beyond the limits of changes, level and labels
    return (10 + wave).astype(np.float32), 1.4e9 // HOUR * HOUR + HOUR * t


def learn(learner: Learner, x: np.ndarray, time: np.ndarray, first: int = 1) -> None:
    for i in range(len(x)):
        row = slice(i, i + 1)
        learner.ticks(np.zeros(1, np.uint32), np.array([first + i], np.uint64), time[row], x[row])


def replay(learner: Learner, x: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Learn tick by tick and return the served forecasts (n, H, K)."""
    network, made = learner.network, []
    state, u = np.zeros((1, network.state_size), np.float32), network.ahead.inputs(time)
    for i in range(len(x)):
        learn(learner, x[i : i + 1], time[i : i + 1], i + 1)
        y, state = network.step(learner.weights, x[i : i + 1], u[i : i + 1], state)
        made.append(y.reshape(network.spec.horizon, -1))
    return np.array(made)


@pytest.mark.parametrize("case", CASES)
def test_the_mixture_equals_its_slow_twin(case: str) -> None:
    spec = ModelSpec(**CASES[case])
    learner, (x, time) = Learner(spec), series(90)
    network = learner.network
    assert network.mixture is not None
    K, H = len(spec.targets), spec.horizon
    periods = [p for p in spec.seasons if p]
    twin = SlowMixture(K, H, HOUR, periods, network._own(), network.features <= 48)
    state, u = np.zeros((1, network.state_size), np.float32), network.ahead.inputs(time)
    worst = 0.0
    for i in range(len(x)):
        row = slice(i, i + 1)
        if i:
            twin.label(x[i, network.targets].astype(float), *window(learner, H))
        learn(learner, x[row], time[row], i + 1)
        statistics = state[:, : network.statistics_size].copy()
        phi, scale, last = network.observe(statistics, x[row], u[row])
        hidden, tape = state[:, network.statistics_size :].copy(), network.tape(1, 1)
        network.forward(learner.weights, hidden, phi[None], tape)
        own = network.head.forward(learner.weights.head, tape.H[0], phi).reshape(H, K)
        expected = twin.tick(
            last[0].astype(float),
            time[i],
            scale[0].astype(float),
            tape.H[0, 0].astype(float),
            phi[0].astype(float),
            own,
            levels(network, statistics, last)[0],
        )
        y, state = network.step(learner.weights, x[row], u[row], state)
        got = (y.reshape(H, K) - last) / np.maximum(scale[0], 1e-12)
        if i > H:
            worst = max(worst, float(np.abs(got - expected).max()))
    assert worst < 2e-3  # float32 readouts and weights beside float64 ones, over 90 updates
    assert np.abs(network.mixture.weights(learner.weights.experts) - twin.weights).max() < 1e-3


def levels(network: Network, statistics: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Distances of the targets from their means in deviations, [B, K]; the scaler's row is count, means, variances…"""
    C, begin = network.scaler.channels, network.scaler.parts[0]
    mean, variance = statistics[:, begin : begin + C], statistics[:, begin + C : begin + 2 * C]
    off = last.astype(float) - mean[:, network.targets]
    return off / (np.sqrt(variance[:, network.targets].astype(float)) + 1e-20)


def window(learner: Learner, H: int) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Hidden state, features and the network's own p at the last H origins of stream 0, newest first."""
    network = learner.network
    _, block = learner.contexts.load([0])  # type: ignore[union-attr]
    tape = network.tape(network.spec.window, 1)
    network.forward(learner.weights, block.start, block.ring.transpose(1, 0, 2), tape)
    newest = int(block.fill[0]) - 1
    at = [newest - back for back in range(min(H, newest + 1))]
    h, phi = [tape.H[i, 0].astype(float) for i in at], [block.ring[0, i].astype(float) for i in at]
    W = learner.weights.head["W"].astype(float)
    return h, phi, [(W @ np.r_[a, b, 1.0]).reshape(H, -1) for a, b in zip(h, phi, strict=True)]


@pytest.mark.parametrize("horizon", [1, 5])
def test_cells_and_the_networks_readout_learn_as_without_a_mixture(horizon: int) -> None:
    keys, (x, time) = SMALL | {"horizon": horizon, "learning_rate": 1e-3}, series(80)
    mixed, alone = Learner(ModelSpec(**keys)), Learner(ModelSpec(**keys | {"forecaster": "network", "seasons": ()}))
    learn(mixed, x, time)
    learn(alone, x, time)

    assert alone.counts.updates == mixed.counts.updates > 70
    # Not to the bit: the norm of a longer vector of gradients is summed in other blocks.
    np.testing.assert_allclose(mixed.weights.flat[: alone.weights.flat.size], alone.weights.flat, atol=1e-5)


@pytest.mark.parametrize("horizon", [1, 4])
def test_what_nothing_predicts_is_left_to_persistence(horizon: int) -> None:
    learner = Learner(ModelSpec(**SMALL | {"channels": ("a",), "horizon": horizon, "seasons": (0.0,)}))
    x = np.cumsum(np.random.default_rng(3).normal(0, 1, (400, 1)), axis=0).astype(np.float32)
    made = replay(learner, x, HOUR * np.arange(400))

    ahead = x[1:301]
    ours, persistence = np.square(made[:300, 0] - ahead).mean(), np.square(x[:300] - ahead).mean()
    assert ours < 1.02 * persistence
    weights = learner.network.mixture.weights(learner.weights.experts)  # type: ignore[union-attr]
    assert weights.sum() == pytest.approx(1)
    assert weights[-1] > 0.8  # without seasons, persistence is the last


@pytest.mark.parametrize("case", CASES)
def test_noise_in_the_future_changes_no_forecast_by_one_bit(case: str) -> None:
    x, time = series(90)
    noisy, N = x.copy(), 60
    noisy[N:] += np.random.default_rng(1).normal(0, 50, noisy[N:].shape).astype(np.float32)

    before = replay(Learner(ModelSpec(**CASES[case])), x, time)
    after = replay(Learner(ModelSpec(**CASES[case])), noisy, time)

    np.testing.assert_array_equal(after[:N], before[:N])
    assert not np.array_equal(after[N:], before[N:])


@pytest.mark.parametrize(
    "keys",
    [
        *CASES.values(),
        {"missing": "hold", "horizon": 3, "hidden": 8},
        {"cell": "gru", "layers": 2, "targets": ("b",)},
        {"horizon": 40, "channels": ("a",)},
        {"hidden": 300, "channels": ("a",)},
        {"interval": 0.0, "seasons": ()},
    ],
    ids=str,
)
def test_the_graph_equals_numpy_on_perturbed_weights(keys: dict[str, Any]) -> None:
    network = Network(ModelSpec(**SMALL | keys))
    rng = np.random.default_rng(0)
    spread = 0.2 if network.spec.hidden < 100 else 0.05  # with larger weights, many units amplify rounding
    weights = network.weights(rng.normal(0, spread, network.layout.size).astype(np.float32))
    weights.experts["mixing"][...] = rng.uniform(0.1, 1, weights.experts["mixing"].shape)
    graph = session(export_step(network, weights))
    state = other = np.zeros((2, network.state_size), np.float32)
    x = rng.normal(0, 1, (2, len(network.spec.channels)))
    for step in range(320):
        x = 0.9 * x + rng.normal(0, 1, x.shape)
        rows = (100 + 5 * x).astype(np.float32)
        if network.spec.missing == "hold":
            rows[rng.random(rows.shape) < 0.1] = np.nan
        u = network.ahead.inputs(1.4e9 + HOUR * (step + 7 * (step > 150)) + np.array([0.0, 600.0]))
        _, scale, _ = network.observe(state[:, : network.statistics_size].copy(), rows, u)
        y, state = network.step(weights, rows, u, state)
        got, other = graph.run(None, {"x": rows, "u": u, "state": other})
        unit = np.maximum(scale, 1).reshape(y.shape)
        assert (np.abs(got - y) <= 1e-5 * unit + np.abs(y) * 2.0**-22).all()
        np.testing.assert_allclose(other, state, rtol=2e-5, atol=2e-5)


def test_a_row_has_the_same_regressors_in_any_batch() -> None:
    network = Network(ModelSpec(**SMALL | {"horizon": 3}))
    learner, (x, time) = Learner(network.spec), series(70)
    learn(learner, x, time)
    rng = np.random.default_rng(2)
    states, kept = np.zeros((5, network.state_size), np.float32), network.statistics_size
    for i in range(40):
        rows = (10 + rng.normal(size=(5, 2))).astype(np.float32)
        u = network.ahead.inputs(np.full(5, time[i]))
        y, after = network.step(learner.weights, rows, u, states)
        for row in range(5):
            one = slice(row, row + 1)
            alone, state = network.step(learner.weights, rows[one], u[one], states[one])
            np.testing.assert_array_equal(state[:, :kept], after[one, :kept])
            np.testing.assert_allclose(alone, y[one], rtol=2e-6)
        states = after


def continues_bit_for_bit(spec: ModelSpec) -> Learner:
    """Assert that a learner restored half way ends with the same weights; return the one it was restored from."""
    x, time = series(100)
    whole, begun, checkpoint = Learner(spec), Learner(spec), Checkpoint()
    learn(whole, x, time)
    learn(begun, x[:50], time[:50])
    checkpoint.save(begun)
    continued = checkpoint.load(spec, begun.contexts.limit)
    learn(continued, x[50:], time[50:], 51)

    np.testing.assert_array_equal(continued.weights.flat, whole.weights.flat)
    return begun


def test_a_learner_continues_from_packed_experts_bit_for_bit() -> None:
    experts = continues_bit_for_bit(ModelSpec(**SMALL | {"horizon": 3})).experts

    assert experts is not None
    with pytest.raises(ValueError, match="covariances of"):
        experts.unpack(experts.pack() + bytes(8))


def test_before_the_first_label_the_mixture_is_the_network_alone() -> None:
    learner = Learner(ModelSpec(**SMALL | {"head_init": 0.3}))
    assert learner.network.mixture is not None

    weights = learner.network.mixture.weights(learner.weights.experts)

    assert weights.tolist() == [1, *[0] * (len(weights) - 1)]


def test_a_seasonal_series_is_forecast_by_its_season() -> None:
    n = 600
    rng = np.random.default_rng(0)
    day = rng.normal(0, 1, 24)
    x = (np.tile(day, n // 24)[:n] + rng.normal(0, 0.05, n)).astype(np.float32)[:, None]
    time = 1.4e9 // HOUR * HOUR + HOUR * np.arange(n)
    spec = ModelSpec(channels=("load",), forecaster="mixture", hidden=8, interval=HOUR, horizon=6)
    forecasts = replay(Learner(spec), x, time)

    at = np.arange(200, n - 6)
    error = np.mean([(forecasts[at, h - 1, 0] - x[at + h, 0]) ** 2 for h in range(1, 7)])
    naive = np.mean([(x[at + h - 24, 0] - x[at + h, 0]) ** 2 for h in range(1, 7)])
    assert error <= 1.01 * naive


def test_weights_that_are_not_finite_leave_no_mark_on_the_experts() -> None:
    learner, (x, time) = Learner(ModelSpec(**SMALL)), series(60)
    learn(learner, x[:40], time[:40])
    learner.weights.head["W"][0, 0] = np.nan

    learn(learner, x[40:42], time[40:42], 41)

    assert learner.counts.refused == 2
    assert learner.experts is not None
    assert all(np.isfinite(c.matrix).all() for c in learner.experts.covariances.values())


def test_a_window_teaches_the_network_and_leaves_the_experts_as_the_ticks_left_them() -> None:
    """Without event times a window has no season; experts taught by it were worse (docs/learning.md)."""
    learner, (x, time) = Learner(ModelSpec(**SMALL | {"horizon": 2})), series(80)
    learn(learner, x, time)
    assert learner.experts is not None
    before, packed = learner.weights.flat.copy(), learner.experts.pack()
    window = Window(x[:30], np.concatenate([x[1:31], x[2:32]], axis=1), np.ones((30, 4), np.float32))

    updates, rejected = learner.windows([window])

    assert (len(updates), rejected) == (1, [])
    after = learner.network.weights(before)
    for name, values in learner.weights.experts.items():
        np.testing.assert_array_equal(values, after.experts[name])
    assert learner.experts.pack() == packed
    assert not np.array_equal(learner.weights.head["W"], after.head["W"])


def test_a_mixture_that_only_windows_taught_answers_with_its_network() -> None:
    spec = ModelSpec(**SMALL)
    learner, (x, time) = Learner(spec), series(80)
    alone = Learner(ModelSpec(**SMALL | {"forecaster": "network", "seasons": (), "learning_rate": 3e-3}))
    for each in (learner, alone):
        each.windows([Window(x[:40], x[1:41], np.ones((40, 2), np.float32))])
    state = np.zeros((1, learner.network.state_size), np.float32)
    other = np.zeros((1, alone.network.state_size), np.float32)
    u = learner.network.ahead.inputs(time)
    for i in range(5):
        row = slice(i, i + 1)
        y, state = learner.network.step(learner.weights, x[row], u[row], state)
        own, other = alone.network.step(alone.weights, x[row], u[row, : alone.network.ahead.size], other)
        np.testing.assert_allclose(y, own, rtol=1e-5)
