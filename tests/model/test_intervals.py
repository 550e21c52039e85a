"""Prediction intervals: the tracked half-widths, their bounds in the answer, and what the fold guarantees of them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from model.answers import intervals
from model.fold.learner import Learner
from model.graph.step import export_step
from model.network import Network
from model.parameters import Array
from model.spec import ModelSpec
from tests.conftest import covering
from tests.contracts import registry
from tests.graphs import session
from tests.model.worlds import Checkpoint, Chunk, Server, chunks, digest, feed, spec
from tests.oracles import plain_intervals

LEVELS = (0.5, 0.9)


def fresh(outputs: int, levels: tuple[float, ...] = LEVELS) -> dict[str, Array]:
    interval = {k: np.zeros(s, np.float32) for k, s in intervals.shapes(len(levels), outputs).items()}
    intervals.init_params(interval, levels)
    return interval


def test_half_widths_follow_a_groups_errors_as_the_plain_rule_does() -> None:
    rng = np.random.default_rng(0)
    interval, errors = fresh(3), [[], [], []]  # type: ignore[var-annotated]
    for _ in range(40):
        p, y = rng.normal(size=(2, 4, 5, 3)).astype(np.float32)
        weight = (rng.random((4, 5, 3)) < 0.4).astype(np.float32)
        intervals.follow(interval, LEVELS, p, y, weight)
        for o in range(3):
            there = weight[..., o] > 0
            errors[o] += np.abs(p[..., o].astype(float) - y[..., o])[there].tolist()
    for o in range(3):
        assert interval["count"][o] == len(errors[o])
        expected = [plain_intervals.after(errors[o], level) for level in LEVELS]
        np.testing.assert_allclose(intervals.radius(interval)[:, o], expected, rtol=1e-4)


def test_the_asked_share_of_errors_is_inside_in_every_quarter_of_any_series() -> None:
    rng, n = np.random.default_rng(1), 8000
    volatility = np.where(np.arange(n) // 1000 % 2, 4.0, 1.0)
    draws = [
        rng.normal(size=n),
        rng.standard_cauchy(n),
        rng.lognormal(size=n),
        rng.normal(size=n) * volatility,
        rng.normal(size=n) * (rng.random(n) < 0.3),  # mostly zero
    ]
    errors = np.abs(np.stack(draws, axis=1)).astype(np.float32)
    interval, inside = fresh(5), np.zeros((n, 2, 5))
    zeros, ones = np.zeros((1, 1, 5)), np.ones((1, 1, 5))
    for t, error in enumerate(errors):
        inside[t] = error <= intervals.radius(interval)
        intervals.follow(interval, LEVELS, error[None, None], zeros, ones)
    half, ninety = inside.reshape(4, -1, 2, 5).mean(axis=1).transpose(1, 0, 2)
    assert (np.abs(ninety - 0.9) <= 0.02).all()
    assert (np.abs(half[:, :4] - 0.5) <= 0.02).all()
    assert (half[:, 4] > 0.65).all()  # the zeros alone are more than half


def test_errors_that_are_not_finite_do_not_count() -> None:
    interval, before = fresh(2), fresh(2)
    p = np.array([[[np.nan, np.inf]]])
    n, covered = intervals.follow(interval, LEVELS, p, np.zeros((1, 1, 2)), np.ones((1, 1, 2)))
    assert (n, covered.tolist()) == (0, [0, 0])
    assert all((interval[k] == before[k]).all() for k in interval)


def test_bounds_of_a_higher_level_are_never_inside_those_of_a_lower_one() -> None:
    interval = fresh(1)
    interval["log"][:, 0] = np.log([2.0, 1.0])
    low, high = intervals.bounds(interval, np.zeros((1, 1)), np.ones((1, 1))).reshape(2, 2)
    assert low.tolist() == [-high[0], -high[1]]
    np.testing.assert_allclose(high, [2, 2], rtol=1e-6)


def test_bounds_are_unknown_where_the_unit_is() -> None:
    made = intervals.bounds(fresh(2), np.ones((1, 2)), np.array([[0.0, 1.0]]))
    assert np.isnan(made).tolist() == [[True, False] * 4]


@pytest.mark.parametrize(
    ("kind", "objective"), [pair for pair in registry.pairs(brief=True) if "classify" not in pair[1]]
)
def test_the_exported_bounds_equal_numpy(kind: str, objective: str) -> None:
    fields: dict[str, Any] = {**registry.cells()[kind], **registry.objectives()[objective], "intervals": LEVELS}
    network = Network(ModelSpec(channels=("a", "b"), hidden=8, **fields))
    rng = np.random.default_rng(1)
    weights = network.weights(rng.normal(0, 0.3, network.layout.size).astype(np.float32))
    weights.interval["log"][...] = rng.uniform(-2, 1, weights.interval["log"].shape)
    if "scale" in weights.target:
        weights.target["scale"][...] = 0.7
    graph = session(export_step(network, weights))
    state = np.zeros((3, network.state_size), np.float32)
    u, n = np.zeros((3, network.ahead.size), np.float32), network.spec.outputs
    for _ in range(30):
        x = rng.normal(size=(3, 2)).astype(np.float32)
        before = state
        answer, state = network.step(weights, x, u, before)
        y, after, bounds = graph.run(["y", "next_state", "bounds"], {"x": x, "u": u, "state": before})
        np.testing.assert_allclose(y, answer[:, :n], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(bounds, answer[:, n:], rtol=1e-5, atol=3e-5, equal_nan=True)
        np.testing.assert_allclose(after, state, rtol=1e-5, atol=1e-5)
    assert np.isfinite(bounds).all()
    assert (bounds[:, : 2 * n] < np.tile(y, 2)).all()
    assert (bounds[:, 2 * n :] > np.tile(y, 2)).all()


def test_without_intervals_no_byte_changes() -> None:
    plain, asked = (Network(spec(hidden=4, **more)) for more in ({}, {"intervals": LEVELS}))
    flat = plain.init_params()
    assert (asked.init_params()[: plain.layout.size] == flat).all()
    assert asked.layout.size == plain.layout.size + 3 * plain.spec.outputs
    assert b"bounds" not in export_step(plain, plain.weights(flat))


def learned(model: ModelSpec, stream: list[Chunk]) -> tuple[Learner, Array]:
    """Return a learner after the chunks, and the answer to every tick after its update, [ticks, A]."""
    learner, answers = Learner(model), []
    server = Server(learner)
    for chunk in stream:
        feed(learner, chunk)
        answers.append(server.forecasts(chunk))
    return learner, np.concatenate(answers)


@pytest.mark.parametrize(("horizon", "every"), [(1, 1), (3, 1), (3, 2)])
def test_intervals_change_neither_weights_nor_forecasts_by_more_than_rounding(horizon: int, every: int) -> None:
    stream = chunks([3] * 80, once=True)
    fields: dict[str, Any] = {"horizon": horizon, "learn_every": every, "learning_rate": 1e-2}
    (plain, told), (asked, wide) = (learned(spec(**fields, **more), stream) for more in ({}, {"intervals": LEVELS}))
    # The norm of the gradient is summed over a longer vector, in another order.
    np.testing.assert_allclose(wide[:, : told.shape[1]], told, rtol=1e-5)
    np.testing.assert_allclose(asked.weights.flat[: plain.network.layout.size], plain.weights.flat, atol=1e-5)
    assert (asked.weights.interval["count"] > 100).all()


@pytest.mark.parametrize(
    ("kind", "loss"), covering(list(itertools.product(registry.cells(brief=True), ["mse", "huber"])))
)
def test_no_bound_changes_by_a_bit_when_later_values_become_noise(kind: str, loss: str) -> None:
    model, cut = spec(**registry.cells()[kind], loss=loss, horizon=3, intervals=LEVELS), 50
    stream, rng = chunks([3] * 80, once=True), np.random.default_rng(9)
    noise = [c._replace(x=rng.normal(0, 1e3, c.x.shape).astype(np.float32)) for c in stream[cut:]]
    (_, told), (_, retold) = learned(model, stream), learned(model, stream[:cut] + noise)
    assert told[: 3 * cut].tobytes() == retold[: 3 * cut].tobytes()
    outputs = model.outputs
    assert (told[3 * cut :, outputs:] != retold[3 * cut :, outputs:]).any(axis=1).all()


def test_a_restart_and_a_rollback_keep_the_half_widths() -> None:
    model = spec(horizon=2, intervals=LEVELS, forecaster="network")
    straight, restarted, checkpoint = Learner(model, 100), Learner(model, 100), Checkpoint()
    for chunk in chunks([5] * 40):
        feed(straight, chunk)
        feed(restarted, chunk)
        checkpoint.save(restarted)
        restarted = checkpoint.load(model, 100)
    assert digest(restarted) == digest(straight)
    before = straight.weights.flat.copy()
    for chunk in chunks([5] * 20, seed=3):
        feed(straight, chunk)
    assert (straight.weights.interval["log"] != restarted.weights.interval["log"]).all()
    straight.roll_back(before)
    np.testing.assert_array_equal(straight.weights.interval["log"], restarted.weights.interval["log"])


def test_an_update_counts_values_and_those_inside_by_level() -> None:
    learner, values, inside = Learner(spec(intervals=LEVELS)), 0, np.zeros(2)
    for chunk in chunks([4] * 300):
        for update in feed(learner, chunk):
            values += update.bounded
            inside += update.covered
    assert values == 2 * learner.counts.learned
    assert abs(inside[0] / values - 0.5) < 0.05
    assert abs(inside[1] / values - 0.9) < 0.03


def test_labels_from_outside_move_the_half_widths_of_a_regression() -> None:
    model = spec(task="regress", targets=["y"], intervals=LEVELS)
    learner, rng = Learner(model), np.random.default_rng(0)
    for chunk in chunks([3] * 60, once=True):
        feed(learner, chunk)
        learner.labels(chunk.streams, chunk.seq, rng.normal(5, 2, (3, 1)).astype(np.float32))
    assert learner.weights.interval["count"] > 100
    made = learner.network.step(
        learner.weights, np.zeros((1, 2), np.float32), np.zeros((1, learner.network.ahead.size), np.float32),
        np.zeros((1, learner.network.state_size), np.float32),
    )[0][0]  # fmt: skip
    y, low50, low90, high50, high90 = made
    assert low90 < low50 < y < high50 < high90
    assert 4 < high90 - low90 < 10  # 2 · 1.645 · 2 is 6.6


@pytest.mark.parametrize(("every", "loss"), [(1, "mse"), (2, "mse"), (1, "pinball"), (2, "gaussian")])
def test_a_late_label_is_compared_with_what_was_given_at_its_origin(
    every: int, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = spec(
        horizon=3, learn_every=every, intervals=LEVELS, learning_rate=1e-2 if loss == "mse" else 2e-3, loss=loss
    )
    learner = Learner(model)
    made: dict[Any, Any] = {}
    seen: list[Any] = []
    follow = intervals.follow

    def noted(interval: Any, levels: Any, p: Array, y: Array, weight: Array, past: Any = None) -> Any:
        seen.append((p, weight, np.exp(past.log)))
        return follow(interval, levels, p, y, weight, past)

    monkeypatch.setattr(intervals, "follow", noted)
    server, compared = Server(learner), 0
    for t, chunk in enumerate(chunks([1] * 60, entities=1)):
        seen.clear()
        feed(learner, chunk)
        for p, weight, half in seen:
            for origin, step, target in np.argwhere(weight.reshape(-1, 3, 2) > 0):
                back = origin + 1  # ticks from the origin to this label's tick
                answer, unit = made[t - back]
                y, (low, high) = answer[:6].reshape(3, 2), answer[6:].reshape(2, 2, 3, 2)
                got = p.reshape(-1, 3, 2)[origin, step, target]
                if np.isnan(got):  # no update at that origin
                    continue
                expected = (y - made[t - back, "x"])[step, target] / unit[step, target]
                assert abs(got - expected) < 0.02  # the learner's window starts from an older state
                width = half.reshape(-1, 2, 3, 2)[origin, :, step, target] * unit[step, target]
                label = chunk.x[0] if origin == step else made[t - origin + step, "x"]
                shown = y - low if label[target] < y[step, target] else high - y
                off = 1e-4 if loss == "mse" else 0.02 * unit[step, target]  # as above
                np.testing.assert_allclose(np.maximum.accumulate(width), shown[:, step, target], rtol=1e-3, atol=off)
                compared += 1
        state = server.states.get(10, np.zeros(learner.network.state_size, np.float32))[None]
        statistics = state[:, : learner.network.scaler.size].copy()
        _, scale, _ = learner.network.observe(statistics, chunk.x, learner.network.ahead.inputs(chunk.time))
        made[t] = server.forecasts(chunk)[0], scale[0]
        made[t, "x"] = chunk.x[0]
    assert compared > 60


SPREADS = ["pinball", "gaussian", "student_t"]


@pytest.mark.parametrize(("loss", "horizon"), [("pinball", 1), ("gaussian", 3), ("student_t", 1)])
def test_a_forecast_spread_is_calibrated_to_the_asked_share_where_the_noise_changes(loss: str, horizon: int) -> None:
    """Noise of a uniform distribution whose size doubles and halves: no distribution that the losses assume."""
    model = spec(horizon=horizon, intervals=LEVELS, loss=loss, learning_rate=1e-2, hidden=3, window=11)
    learner, rng, values, inside = Learner(model), np.random.default_rng(0), 0, np.zeros(2)
    seq = np.zeros(1, np.uint64)
    for t in range(600):
        seq += np.uint64(1)
        x = rng.uniform(-1, 1, (1, 2)) * (1 + (t // 100) % 2)
        time = np.array([1.4e9 + 1800.0 * t])
        for update in learner.ticks(np.zeros(1, np.uint32), seq.copy(), time, x.astype(np.float32)):
            values += update.bounded
            inside += update.covered
    assert values > 500
    np.testing.assert_allclose(inside / values, LEVELS, rtol=0, atol=0.05)
    assert (learner.weights.interval["log"] != 0).any()


@pytest.mark.parametrize("loss", SPREADS)
def test_a_new_model_with_a_spread_answers_persistence_with_normal_bounds(loss: str) -> None:
    plain, other = (Network(spec(intervals=LEVELS, forecaster="network", loss=name)) for name in ("mse", loss))
    state, rng = np.zeros((2, plain.state_size), np.float32), np.random.default_rng(0)
    assert other.state_size == plain.state_size
    u = np.zeros((2, plain.ahead.size), np.float32)
    for _ in range(3):
        x = rng.normal(size=(2, 2)).astype(np.float32)
        expected, after = plain.step(plain.weights(plain.init_params()), x, u, state)
        got, state = other.step(other.weights(other.init_params()), x, u, state)
        np.testing.assert_array_equal(state, after)
        np.testing.assert_array_equal(got[:, :2], expected[:, :2])
    if loss != "student_t":  # its quantiles are farther out
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", SPREADS)
def test_a_restart_between_labels_keeps_the_bits_of_a_model_with_a_spread(loss: str) -> None:
    model = spec(horizon=3, intervals=LEVELS, loss=loss, learning_rate=1e-2)
    straight, restarted, checkpoint = Learner(model, 100), Learner(model, 100), Checkpoint()
    for chunk in chunks([5] * 12):
        feed(straight, chunk)
        feed(restarted, chunk)
        checkpoint.save(restarted)
        restarted = checkpoint.load(model, 100)
    assert digest(restarted) == digest(straight)
    assert straight.weights.interval["count"].any()


@pytest.mark.parametrize("loss", SPREADS)
def test_a_regression_with_a_spread_learns_labels_of_any_size_and_its_bounds_follow(loss: str) -> None:
    model = spec(task="regress", targets=["y"], intervals=LEVELS, loss=loss, learning_rate=1e-2, window=9, hidden=3)
    learner, rng = Learner(model), np.random.default_rng(0)
    for chunk in chunks([3] * 150, once=True):
        feed(learner, chunk)
        learner.labels(chunk.streams, chunk.seq, rng.normal(5e3, 200, (3, 1)).astype(np.float32))
    made = learner.network.step(
        learner.weights, np.zeros((1, 2), np.float32), np.zeros((1, learner.network.ahead.size), np.float32),
        np.zeros((1, learner.network.state_size), np.float32),
    )[0][0]  # fmt: skip
    y, low50, low90, high50, high90 = made
    assert low90 < low50 < y < high50 < high90
    assert abs(y - 5e3) < 300
    assert 300 < high90 - low90 < 1500  # 2 · 1.645 · 200 is 658
