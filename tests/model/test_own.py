"""The streams' own readouts: equal to their slow twin, to the graph, and in the learner to those of served streams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model.answers.own import FORGETTING, LARGEST_WEIGHT, START, Own
from model.answers.tasks import TARGET_CLIP
from model.fold.learner import Learner
from model.fold.own import MEMORY
from model.graph.step import export_step
from model.network import Network
from model.parameters import Array
from model.spec import ModelSpec
from tests.graphs import session
from tests.model.test_mixture import HOUR, SMALL, continues_bit_for_bit, learn, replay, series
from tests.oracles.slow_own import SlowOwn

OWN: dict[str, Any] = SMALL | {"own_readout": True}
CASES: dict[str, dict[str, Any]] = {
    "two targets": OWN,
    "one of two channels": OWN | {"targets": ("b",)},
    "no season": OWN | {"seasons": (0.0,)},
    "hold": OWN | {"missing": "hold"},
    "a label range": OWN | {"label_range": (5.0, 14.0)},
    "few regressors": OWN | {"hidden": 250},
}


def gaps(x: Array) -> Array:
    out = x.copy()
    out[np.random.default_rng(4).random(x.shape) < 0.1] = np.nan
    return out


def rows_of(keys: dict[str, Any], n: int = 90) -> tuple[Array, Array]:
    x, time = series(n)
    return (gaps(x) if keys.get("missing") == "hold" else x), time


def perturbed(network: Network, seed: int = 0) -> Array:
    """Weights without a zero; those of the mixture's experts are positive, the mean squares of the regressors too."""
    rng = np.random.default_rng(seed)
    weights = network.weights(rng.normal(0, 0.2, network.layout.size).astype(np.float32))
    weights.experts["mixing"][...] = rng.uniform(0.1, 1, weights.experts["mixing"].shape)
    weights.experts["own_squares"][...] = rng.uniform(0, 3, weights.experts["own_squares"].shape)
    for axes in weights.experts["own_axes"]:
        axes[...] = np.linalg.qr(axes)[0]
    return weights.flat


@pytest.mark.parametrize(
    "keys",
    [
        *CASES.values(),
        {"channels": ("a",), "seasons": (0.0,), "intervals": (0.5, 0.9)},
        {"channels": ("a", "b", "c"), "targets": ("c", "a"), "missing": "hold"},
        {"channels": ("a",), "missing": "hold", "label_range": (8.0, 14.0)},
        {"known": ("k", "c"), "static": ("s",), "categories": ("c:3",)},
        {"cell": "gru", "layers": 2},
    ],
    ids=str,
)
def test_the_graph_equals_numpy_on_perturbed_weights(keys: dict[str, Any]) -> None:
    network = Network(ModelSpec(**OWN | keys))
    rng, spec = np.random.default_rng(0), network.spec
    weights = network.weights(perturbed(network))
    if spec.hidden > 100:
        np.multiply(weights.flat, np.float32(0.2), out=weights.flat)
    graph = session(export_step(network, weights))
    state = other = np.zeros((2, network.state_size), np.float32)
    x, most = rng.normal(0, 1, (2, len(spec.channels))), np.zeros(2)
    assert network.own is not None
    for step in range(320):
        x = 0.3 * x + rng.normal(0, 1, x.shape)
        rows = (10 + 2 * x).astype(np.float32)
        if spec.missing == "hold":
            rows[rng.random(rows.shape) < 0.1] = np.nan
        sent = rng.integers(0, 3, (2, spec.sent)).astype(np.float32)
        u = network.ahead.inputs(1.4e9 + HOUR * (step + 7 * (step > 150)) + np.array([0.0, 600.0]), sent)
        _, scale, _ = network.observe(state[:, : network.statistics_size].copy(), rows, u)
        y, state = network.step(weights, rows, u, state)
        got, other, *bounds = graph.run(None, {"x": rows, "u": u, "state": other})
        got = np.concatenate([got, *bounds], axis=1)
        unit = np.maximum(np.tile(scale[:, 0], y.shape[1] // scale.shape[2]), 1)
        differs = np.abs(np.where(np.isnan(y), 0, got - y))
        assert (differs <= 1e-5 * unit + np.abs(np.nan_to_num(y)) * 2.0**-22).all()
        np.testing.assert_allclose(other, state, rtol=3e-5, atol=3e-5)
        assert network.problem(state[0]) is None
        at = network.own.parts(state[:, network.owned])
        most = np.maximum(most, network.own.weights(at)[:, :2].max(axis=0))
    assert (np.abs(at.readout).max(axis=(1, 2)) > 1e-3).all()
    assert (most > 0.01).all()  # both forecasts are in the answer


@pytest.mark.parametrize("case", CASES)
def test_an_own_readout_equals_its_slow_twin(case: str) -> None:
    network = Network(ModelSpec(**CASES[case]))
    own, (x, time) = network.own, rows_of(CASES[case])
    assert own is not None
    assert network.mixture is not None
    weights = network.weights(perturbed(network))
    axes, squares = (weights.experts[f"own_{k}"].astype(float) for k in ("axes", "squares"))
    twin, M = SlowOwn(own.targets, own.n), np.einsum("kij,kj,klj->kil", axes, squares, axes)
    state, u = np.zeros((1, network.state_size), np.float32), network.ahead.inputs(time)
    before, scale_before = np.zeros(own.targets), np.zeros(own.targets)
    for i in range(len(x)):
        statistics, hidden = np.split(state.copy(), [network.statistics_size], axis=1)
        phi, scale, last = network.observe(statistics, x[i : i + 1], u[i : i + 1])
        tape = network.tape(1, 1)
        network.forward(weights, hidden, phi[None], tape)
        made = network.extend(statistics, last, u[i : i + 1], scale)
        p = network.head.forward(weights.head, tape.H[0], tape.F[0])
        each, rows = network.mixture.forecasts(weights.experts, p, tape.H[0], tape.F[0], made)
        if i:
            known = (scale_before > 0) & ~np.isnan(x[i, network.targets])
            if network.spec.label_range:
                low, high = network.spec.label_range
                known &= low <= min(last.min(), before.min()) and max(last.max(), before.max()) <= high
            twin.label(np.clip((last[0] - before) / np.where(known, scale_before, 1), -8, 8), known)
        model = network.mixture.mix(weights.experts, each)[0, 0].astype(float)
        expected = twin.tick(rows.every[own.source][0, 0].astype(float), model, M)
        y, state = network.step(weights, x[i : i + 1], u[i : i + 1], state)
        before, scale_before = last[0].astype(float), scale[0, 0].astype(float)
        answered = scale_before > 0
        got = (y[0] - last[0]) / np.where(answered, scale_before, 1)
        np.testing.assert_allclose(got[answered], expected[answered], atol=2e-3)
    at = own.parts(state[:, network.owned])
    np.testing.assert_allclose(at.readout[0], twin.W, atol=1e-4)
    np.testing.assert_allclose(own.weights(at)[0], twin.weights, atol=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_the_model_learns_exactly_as_without_own_readouts(case: str) -> None:
    x, time = rows_of(CASES[case])
    with_own, without = Learner(ModelSpec(**CASES[case])), Learner(ModelSpec(**CASES[case] | {"own_readout": False}))
    learn(with_own, x, time)
    learn(without, x, time)

    ours, theirs = (learner.network.layout.views(learner.weights.flat) for learner in (with_own, without))
    assert ours.keys() - theirs.keys() == {"experts.own_axes", "experts.own_squares"}
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_a_context_learns_what_the_served_stream_has_learned(case: str) -> None:
    """With a frozen cell, the hidden states of window and stream are equal but for rounding."""
    spec = ModelSpec(**CASES[case] | {"freeze": ("cell0",)})
    learner, (x, time) = Learner(spec), rows_of(CASES[case])
    network, own = learner.network, learner.network.own
    assert own is not None
    state, u = np.zeros((1, network.state_size), np.float32), network.ahead.inputs(time)
    for i in range(len(x)):
        learn(learner, x[i : i + 1], time[i : i + 1], i + 1)
        _, state = network.step(learner.weights, x[i : i + 1], u[i : i + 1], state)
    _, block = learner.contexts.load([0])  # type: ignore[union-attr]
    context, served = (own.parts(row[:, network.owned]) for row in (block.statistics, state))

    for name in ("readout", "share", "regret", "squares", "largest"):
        np.testing.assert_allclose(getattr(context, name), getattr(served, name), rtol=1e-3, atol=1e-5, err_msg=name)
    assert np.abs(served.readout).max() > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_noise_in_the_future_changes_no_forecast_by_one_bit(case: str) -> None:
    (x, time), N = rows_of(CASES[case]), 60
    noisy = x.copy()
    noisy[N:] += np.random.default_rng(1).normal(0, 50, noisy[N:].shape).astype(np.float32)

    before = replay(Learner(ModelSpec(**CASES[case])), x, time)
    after = replay(Learner(ModelSpec(**CASES[case])), noisy, time)

    np.testing.assert_array_equal(after[:N], before[:N])
    assert not np.array_equal(after[N:], before[N:])


def test_the_learners_loss_is_that_of_the_served_answer() -> None:
    spec = ModelSpec(**OWN | {"freeze": ("cell0",), "learning_rate": 1e-6, "rate_floor": 0.0, "schedule": "constant"})
    learner, (x, time) = Learner(spec), series(200)
    network = learner.network
    state, u, losses, expected = np.zeros((1, network.state_size), np.float32), network.ahead.inputs(time), [], []
    y = scale = None
    for i in range(len(x)):
        row = slice(i, i + 1)
        updates = learner.ticks(np.zeros(1, np.uint32), np.array([i + 1], np.uint64), time[row], x[row])
        if updates and y is not None and scale is not None:
            losses.append(updates[0].loss)
            label, p = (x[i] - x[i - 1]) / scale[0, 0], (y[0] - x[i - 1]) / scale[0, 0]
            expected.append(((np.clip(label, -TARGET_CLIP, TARGET_CLIP) - p) ** 2).sum())
        _, scale, _ = network.observe(state[:, : network.statistics_size].copy(), x[row], u[row])
        y, state = network.step(learner.weights, x[row], u[row], state)
    rate = np.array(losses) / np.array(expected)
    assert np.ptp(rate[20:]) < 0.02 * np.median(rate)


def test_the_directions_are_those_of_the_mean_squares_of_the_regressors() -> None:
    learner, (x, time) = Learner(ModelSpec(**OWN | {"targets": ("a",)})), series(130)
    learn(learner, x, time)
    assert learner.experts is not None
    assert learner.experts.own is not None
    own, experts = learner.experts.own, learner.weights.experts
    squares, axes = experts["own_squares"][0].astype(float), experts["own_axes"][0].astype(float)

    assert 100 < own.rows[0] < MEMORY
    assert np.abs((axes * squares) @ axes.T - own.squares[0]).max() < 0.3 * np.abs(own.squares[0]).max()
    np.testing.assert_allclose(axes @ axes.T, np.eye(own.own.n), atol=1e-5)
    own.reset(experts)
    np.testing.assert_allclose(own.squares[0], (axes * squares) @ axes.T, atol=1e-12)
    assert own.rows[0] == MEMORY


def test_gains_are_those_of_the_inverse_of_the_expected_normal_matrix() -> None:
    network = Network(ModelSpec(**OWN))
    own, rng = network.own, np.random.default_rng(0)
    assert own is not None
    experts = network.weights(perturbed(network)).experts
    z, share = rng.normal(size=(3, own.targets, own.n)), rng.uniform(0, 1, (3, own.targets))
    got = own.gains(experts, share.astype(np.float32), z.astype(np.float32))
    for b in range(3):
        for k in range(own.targets):
            axes, squares = experts["own_axes"][k].astype(float), experts["own_squares"][k].astype(float)
            along = np.maximum((1 - share[b, k]) / START + share[b, k] / (1 - FORGETTING) * squares, 1 / START)
            P = axes @ np.diag(1 / along) @ axes.T
            np.testing.assert_allclose(
                got[b, k], P @ z[b, k] / (FORGETTING + z[b, k] @ P @ z[b, k]), rtol=1e-3, atol=1e-6
            )


def test_a_learner_continues_from_packed_mean_squares_bit_for_bit() -> None:
    experts = continues_bit_for_bit(ModelSpec(**OWN)).experts

    assert experts is not None
    with pytest.raises(ValueError, match="mean squares of"):
        experts.unpack(experts.pack() + bytes(8))


def test_before_the_first_label_the_answer_is_the_models() -> None:
    network = Network(ModelSpec(**OWN))
    assert isinstance(network.own, Own)
    row = np.zeros((1, network.own.size), np.float32)

    np.testing.assert_array_equal(network.own.weights(network.own.parts(row)), [[1, 0, 0]])


def test_streams_of_opposite_sign_each_get_their_own_answer() -> None:
    """Two streams whose changes continue, or turn: the shared readouts see both and can forecast neither."""
    spec = ModelSpec(channels=("a",), forecaster="mixture", own_readout=True, hidden=8)
    rng, n = np.random.default_rng(0), 700
    change = rng.normal(0, 1, (n, 2))
    for i in range(1, n):
        change[i] += (0.8, -0.8) * change[i - 1]
    x, learner = np.cumsum(change, axis=0).astype(np.float32), Learner(spec)
    network, streams, none = learner.network, np.arange(2, dtype=np.uint32), np.full(2, np.nan)
    state, made = np.zeros((2, network.state_size), np.float32), []
    for i in range(n):
        learner.ticks(streams, np.full(2, i + 1, np.uint64), none, x[i][:, None])
        y, state = network.step(learner.weights, x[i][:, None], network.ahead.inputs(none), state)
        made.append(y[:, 0])
    error = ((np.array(made)[300:-1] - x[301:]) ** 2).mean(axis=0)
    naive = (np.diff(x, axis=0)[300:] ** 2).mean(axis=0)
    assert (error / naive < 0.5).all()  # the best is 0.36


@pytest.mark.parametrize("gain", [1.0, np.nan, np.inf])
def test_a_step_that_would_leave_the_bounds_is_not_taken(gain: float) -> None:
    network = Network(ModelSpec(**OWN))
    assert network.own is not None
    row = np.zeros((1, network.own.size), np.float32)
    at = network.own.parts(row)
    at.readout[...] = LARGEST_WEIGHT - 1
    at.gain[...] = gain
    with np.errstate(invalid="ignore"):
        network.own.learn(row, np.full((1, 2), 8, np.float32), np.ones((1, 2), bool))

    assert (at.readout == LARGEST_WEIGHT - 1).all()
    assert (at.share > 0).all()
