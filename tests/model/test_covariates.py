"""Known, static and categorical inputs in the network: gradients, export, scaling, and what they are worth."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.bounds import Bounds
from model.fold.learner import Learner
from model.graph.step import export_step
from model.network import Network
from model.parameters import Array
from model.spec import ModelSpec
from model.update.bptt import Batch, gradient
from tests.conftest import covering
from tests.contracts import registry
from tests.graphs import session

F64 = NDArray[np.float64]

KINDS: dict[str, dict[str, Any]] = {
    "known": {"known": ("price",)},
    "category": {"known": ("kind",), "categories": ("kind:5",)},
    "static": {"static": ("size",)},
    "region": {"static": ("region",), "categories": ("region:3",)},
    "all": {"known": ("p", "kind", "q"), "static": ("r", "size"), "categories": ("r:3", "kind:5")},
}
B = 3
CELLS = registry.cells(brief=True)


def build(kind: str, **fields: Any) -> Network:
    given: dict[str, Any] = {"hidden": 8, "layers": 2, **KINDS[kind], **fields}
    return Network(ModelSpec(channels=("a", "b"), **given))


def rows(network: Network, ticks: int, seed: int = 0) -> Array:
    """Return the rows of B streams, [ticks, B, row]: some known values are absurd, some missing with hold."""
    own, rng = network.covariates, np.random.default_rng(seed)
    x = np.cumsum(rng.normal(0, 0.5, (ticks, B, 2)), axis=0)
    counts = np.concatenate([np.tile(own.count_of[: own.known], own.horizon), own.count_of[own.known :]])
    shape = (ticks, B, own.sent)
    real = rng.normal(50, 20, shape) * np.where(rng.random(shape) < 0.003, 1e9, 1)
    sent = np.where(counts > 0, np.floor(rng.random(shape) * np.maximum(counts, 1)), real)
    sent[:, :, own.ahead :] = sent[:1, :, own.ahead :]
    if network.spec.missing == "hold":
        sent[:, :, : own.ahead][rng.random((ticks, B, own.ahead)) < 0.1] = np.nan
    return np.concatenate([x, sent], axis=2).astype(np.float32)


CASES = list(itertools.product(KINDS, ["refuse", "hold"], [1, 4]))


@pytest.mark.parametrize(("kind", "missing", "horizon"), covering(CASES, (0, 1), (0, 2), (1, 2)))
def test_the_graph_equals_numpy_over_300_steps(kind: str, missing: str, horizon: int) -> None:
    network = build(kind, missing=missing, horizon=horizon, interval=900.0)
    flat = np.random.default_rng(1).normal(0, 0.3, network.layout.size).astype(np.float32)
    weights = network.weights(flat)
    graph = session(export_step(network, weights))
    state = other = np.zeros((B, network.state_size), np.float32)
    for t, row in enumerate(rows(network, 300)):
        x, u = network.inputs(1.4e9 + 900.0 * t + 60.0 * np.arange(B, dtype=np.float64), row)
        _, scale, _ = network.observe(state[:, : network.statistics_size].copy(), x, u)
        y, state = network.step(weights, x, u, state)
        got, other = graph.run(None, {"x": x, "u": u, "state": other})
        unit = network.task.units(weights.target, scale)
        assert (np.abs(got - y) <= 1e-5 * unit + 2.0**-23 * np.abs(y)).all()
        np.testing.assert_allclose(other, state, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("task", registry.EXAMPLES)
def test_the_graph_equals_numpy_with_every_cell_and_task(cell: str, task: str) -> None:
    network = build("all", task=task, **CELLS[cell], **registry.EXAMPLES[task])
    flat = np.random.default_rng(1).normal(0, 0.3, network.layout.size).astype(np.float32)
    weights = network.weights(flat)
    graph = session(export_step(network, weights))
    state = other = np.zeros((B, network.state_size), np.float32)
    for row in rows(network, 40):
        x, u = network.inputs(np.full(B, np.nan), row)
        y, state = network.step(weights, x, u, state)
        got, other = graph.run(None, {"x": x, "u": u, "state": other})
        np.testing.assert_allclose(got, y, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(other, state, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "horizon", "cell"), [
    ("category", 1, "lstm"), ("region", 3, "lstm"), *(("all", 3, cell) for cell in CELLS)
])  # fmt: skip
def test_the_gradient_of_a_table_equals_central_differences(kind: str, horizon: int, cell: str) -> None:
    network, T = build(kind, horizon=horizon, **CELLS[cell]), 6
    rng, n = np.random.default_rng(2), network.layout.size
    flat = rng.normal(0, 0.5, n)
    weight = np.zeros((T, B, network.spec.outputs))
    weight[2:] = 1
    X = rng.normal(0, 1, (T, B, network.features))
    X[:, :, -network.covariates.raw :] = rng.integers(0, 3, (T, B, network.covariates.raw))
    batch = Batch(rng.normal(0, 0.5, (B, network.hidden_size)), X, rng.normal(0, 1, weight.shape), weight)

    def loss(at: F64) -> float:
        tape = network.tape(T, B, np.float64)
        return gradient(network, network.weights(at), batch, tape, network.weights(np.zeros(n)))[0]

    grad = network.weights(np.zeros(n))
    gradient(network, network.weights(flat), batch, network.tape(T, B, np.float64), grad)
    part = network.layout.layers()["embed"]
    assert np.abs(grad.flat[part]).max() > 1e-3
    for i in range(part.start, part.stop):
        step = np.zeros(n)
        step[i] = 1e-6
        assert grad.flat[i] == pytest.approx((loss(flat + step) - loss(flat - step)) / 2e-6, rel=1e-5, abs=1e-8)


def test_one_absurd_value_has_a_bounded_influence() -> None:
    own = build("known").covariates
    row, rng = np.zeros((1, own.size), np.float32), np.random.default_rng(3)
    for _ in range(200):
        own.update(row, rng.normal(100, 2, (1, 1)).astype(np.float32))
    assert own.update(row, np.full((1, 1), 1e15, np.float32)) == 8
    (after,) = own.update(row, np.full((1, 1), 102.0, np.float32))[0]
    assert 0.5 < after < 1.2


@pytest.mark.parametrize("hold", ["refuse", "hold"])
def test_statistics_stay_within_their_bounds_from_zeros_and_from_a_row_at_the_bounds(hold: str) -> None:
    network = build("all", missing=hold, horizon=2)
    own, rng = network.covariates, np.random.default_rng(8)
    bounds = Bounds(own.bounds)
    for first in (np.zeros(own.size), bounds.low, bounds.high):
        row = np.array([first], np.float32)
        for tick in range(300):
            extreme = rng.choice([-1e15, 1e15, 0.0, 1.0, 1e-30], (1, own.sent))
            sent = np.where(own.columns > 0, own.sample(1, tick), extreme).astype(np.float32)
            assert np.isfinite(own.update(row, sent)).all()
            assert bounds.outside(row[0]) is None


def test_a_missing_known_value_is_the_last_one_with_hold() -> None:
    network = build("all", missing="hold", horizon=2)
    first, second = rows(network, 2, seed=5)
    first, second = np.nan_to_num(first), np.nan_to_num(second)
    K, C = network.covariates.known, 2
    held = second.copy()
    held[:, C : C + 2 * K] = np.tile(first[:, C : C + K], 2)
    second[:, C : C + 2 * K] = np.nan
    states = []
    for row in (second, held):
        state, weights = np.zeros((B, network.state_size), np.float32), network.weights(network.init_params())
        for tick in (first, row):
            _, state = network.step(weights, *network.inputs(np.full(B, np.nan), tick), state)
        states.append(state)
    known = slice(network.mixed.stop + K, network.statistics_size)  # but for the counts
    np.testing.assert_array_equal(states[0][:, network.statistics_size :], states[1][:, network.statistics_size :])
    assert (states[0][:, known] == states[1][:, known]).any()


def test_a_new_model_forecasts_persistence_whatever_was_sent() -> None:
    network = build("all", horizon=3)
    weights, state = network.weights(network.init_params()), np.zeros((B, network.state_size), np.float32)
    for row in rows(network, 20):
        y, state = network.step(weights, *network.inputs(np.full(B, np.nan), row), state)
        np.testing.assert_array_equal(y, np.tile(row[:, :2], 3))


# ---- learning


def forecasts(x: F64, sent: F64 | None, **fields: Any) -> Array:
    """Return the forecast after each row, [N, O], by weights that have learned it."""
    # The rates of a mixture, which start fast.
    rates: dict[str, Any] = {
        "learning_rate": 3e-3, "rate_floor": 7e-4, "schedule": "inverse_sqrt", "schedule_updates": 49_500,
    }  # fmt: skip
    spec = ModelSpec(channels=("a",), forecaster="network", **rates, **fields)
    learner, one = Learner(spec), np.ones(1, np.uint32)
    network = learner.network
    row = (x[:, None] if sent is None else np.column_stack([x, sent])).astype(np.float32)
    state, tape, none, out = np.zeros((1, network.state_size), np.float32), network.tape(1, 1), np.full(1, np.nan), []
    for i in range(len(row)):
        learner.ticks(one, np.full(1, i + 1, np.uint64), none, row[i : i + 1])
        y, state = network.step(learner.weights, *network.inputs(none, row[i : i + 1]), state, tape)
        out.append(y[0])
    return np.array(out)


def error(y: Array, x: F64, first: int, end: int) -> float:
    return float(np.square(y[first:end, 0] - x[first + 1 : end + 1]).mean())


def test_a_known_input_that_decides_half_of_the_next_step_halves_the_error() -> None:
    known, noise = np.random.default_rng(0).normal(0, 1, (2, 3001))
    x = known + noise
    without, given = forecasts(x[:-1], None), forecasts(x[:-1], known[1:], known=("k",))
    assert error(given, x, 1000, 3000) <= 0.55 * error(without, x, 1000, 3000)


@pytest.mark.long
def test_a_useless_known_input_costs_at_most_a_hundredth() -> None:
    known, noise = np.random.default_rng(1).normal(0, 1, (2, 3001))
    x = np.zeros(3001)
    for i in range(3000):
        x[i + 1] = 0.9 * x[i] + noise[i]
    without, given = forecasts(x[:-1], None), forecasts(x[:-1], known[1:], known=("k",))
    assert error(given, x, 0, 3000) <= 1.01 * error(without, x, 0, 3000)


def test_a_category_that_shifts_the_level_is_seen_within_100_ticks() -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 201)
    x = np.array([0.0, 5.0, -3.0])[kind] + rng.normal(0, 0.5, 201)
    without, given = (
        forecasts(x[:-1], None),
        forecasts(x[:-1], kind[1:].astype(np.float64), known=("k",), categories=("k:3",)),
    )
    assert error(given, x, 100, 200) <= 0.2 * error(without, x, 100, 200)


@pytest.mark.parametrize("kind", ["known", "all"])
def test_what_is_sent_or_comes_later_changes_no_earlier_forecast(kind: str) -> None:
    rng, N = np.random.default_rng(4), 60
    network = Network(ModelSpec(channels=("a",), horizon=2, **KINDS[kind]))
    own = network.covariates
    x, sent = rng.normal(0, 1, N), rng.integers(0, 3, (N, own.sent)).astype(np.float64)
    before = forecasts(x, sent, horizon=2, **KINDS[kind])
    x[N // 2 :] += 1
    sent[N // 2 :, : own.ahead] = (sent[N // 2 :, : own.ahead] + 1) % 3
    after = forecasts(x, sent, horizon=2, **KINDS[kind])
    np.testing.assert_array_equal(before[: N // 2], after[: N // 2])
    assert (before[N // 2 :] != after[N // 2 :]).any()


def test_learning_uses_what_was_sent_and_not_what_came_true() -> None:
    """What tick 40 sent for its second step differs a little from the true value, which tick 41 sends: the weights
    after it differ. (Of one bit, some processors' rounding leaves nothing.)"""
    rng = np.random.default_rng(6)
    known, x = rng.normal(0, 1, 82), rng.normal(0, 1, 80)
    sent = np.stack([known[:80], known[1:81]], axis=1)
    fields: dict[str, Any] = {"horizon": 2, "known": ("k",)}
    honest = forecasts(x, sent, **fields)
    sent[40, 1] += 1e-5  # what was sent for step 2
    assert (forecasts(x, sent, **fields)[43:] != honest[43:]).any()
