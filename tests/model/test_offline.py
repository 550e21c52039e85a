"""Offline training on a history: the ticks learned and held out, and the weights kept."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from model.network import Network
from model.offline.recorded import Recorded, known_by, prepare, side_by_side
from model.offline.references import references
from model.offline.training import (
    Diverged,
    Epoch,
    OfflineSettings,
    OfflineTraining,
    cut_segments,
    forecasts,
    loss_of,
    score,
)
from model.spec import ModelSpec
from model.update.bptt import Batch
from tests.model.worlds import INTERVAL_S, START_S
from tests.oracles.slow_learner import SlowLearner

NOISE = 0.3


def oscillation(ticks: int, seed: int = 0) -> np.ndarray:
    """Return [ticks, 1]: x_t = 1.9 cos(0.5)·x_{t−1} − 0.9025·x_{t−2} + noise. No forecast is better than NOISE."""
    rng = np.random.default_rng(seed)
    x = np.zeros(ticks + 100)
    for t in range(2, len(x)):
        x[t] = 1.9 * np.cos(0.5) * x[t - 1] - 0.9025 * x[t - 2] + NOISE * rng.standard_normal()
    return x[100:, None].astype(np.float32)


def network(**keys: object) -> Network:
    return Network(ModelSpec.from_mapping({"channels": ["a"], "hidden": 8, "learning_rate": 5e-3, **keys}))


def recorded(of: Network, x: np.ndarray) -> Recorded:
    return prepare(of, x, START_S + INTERVAL_S * np.arange(len(x), dtype=np.float64))


def run(training: OfflineTraining) -> list[Epoch]:
    return list(training.epochs())


def trained(x: np.ndarray, train_ticks: int, settings: OfflineSettings, **keys: object) -> OfflineTraining:
    of = network(**keys)
    training = OfflineTraining(of, recorded(of, x), train_ticks, settings)
    run(training)
    return training


def test_training_is_close_to_the_best_possible_forecast_of_held_out_ticks() -> None:
    x, of = oscillation(2000), network()
    training = OfflineTraining(of, recorded(of, x), 1600, OfflineSettings.truncated(60, 10, 1600, 16))
    epochs, data = run(training), training.recorded

    persistence = loss_of(of, data, np.zeros_like(data.Y[1600:]), 1600, 2000)
    possible = 0.5 * float(np.mean((NOISE / data.scale[1600:]) ** 2))
    assert epochs[0].held_out == pytest.approx(persistence, rel=1e-6)  # a zero readout is persistence
    assert possible < 0.3 * persistence
    assert training.best.loss < 1.15 * possible


def test_the_kept_weights_are_those_of_the_epoch_with_the_lowest_held_out_loss() -> None:
    wander = np.cumsum(np.random.default_rng(3).standard_normal((400, 1)), axis=0).astype(np.float32)  # no pattern
    of = network(learning_rate=2e-2)
    training = OfflineTraining(of, recorded(of, wander), 320, OfflineSettings.truncated(200, 6, 320, 16))
    epochs, data = run(training), training.recorded

    lowest = min(epochs, key=lambda epoch: epoch.held_out)
    assert epochs[-1].number == lowest.number + 6  # patience ends training long before epoch 200
    assert training.best[:2] == (lowest.number, lowest.held_out)
    assert score(of, of.weights(training.best.flat), data, 320, 400) == lowest.held_out
    assert score(of, training.weights, data, 320, 400) == epochs[-1].held_out > lowest.held_out
    assert [epoch.best for epoch in epochs] == [
        epoch.held_out < min([math.inf, *(e.held_out for e in epochs[:n])]) for n, epoch in enumerate(epochs)
    ]


def test_without_held_out_ticks_every_epoch_is_run_and_the_last_weights_are_kept() -> None:
    of = network()
    training = OfflineTraining(of, recorded(of, oscillation(200)), 200, OfflineSettings.truncated(7, 2, 200, 16))
    epochs = run(training)
    assert [epoch.number for epoch in epochs] == list(range(8))
    assert all(math.isnan(epoch.held_out) for epoch in epochs)
    assert epochs[-1].train < epochs[1].train
    np.testing.assert_array_equal(training.best.flat, training.weights.flat)


def test_the_same_seed_gives_bit_equal_weights_and_another_seed_different_ones() -> None:
    settings = OfflineSettings.truncated(3, 5, 400, 16)
    first, again, other = (trained(oscillation(500), 400, settings, seed=seed).best.flat for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("horizon", [1, 5])
def test_no_weight_depends_on_ticks_after_the_training_ticks(horizon: int) -> None:
    x = oscillation(300)
    changed = x.copy()
    changed[240:] = 50
    settings = OfflineSettings.truncated(4, 100, 240, 16)
    plain, other = (trained(values, 240, settings, horizon=horizon).weights.flat for values in (x, changed))
    np.testing.assert_array_equal(plain, other)


def test_chunks_as_long_as_a_segment_equal_whole_sequence_backpropagation() -> None:
    x = oscillation(300)
    whole = trained(x, 240, OfflineSettings.whole(5, 5), window=16)
    for chunk in (240, 4096):
        settings = OfflineSettings(epochs=5, patience=5, rows=1, segments=1, chunk=chunk)
        np.testing.assert_array_equal(trained(x, 240, settings).weights.flat, whole.weights.flat)
    assert whole.updates == 5
    cut = OfflineSettings(epochs=5, patience=5, rows=1, segments=1, chunk=60)
    assert (trained(x, 240, cut).weights.flat != whole.weights.flat).any()


def test_each_epoch_learns_every_training_tick_of_a_full_segment_once(monkeypatch) -> None:
    of = network(horizon=2, window=16)
    training = OfflineTraining(
        of, recorded(of, oscillation(700)), 650, OfflineSettings(epochs=2, patience=9, rows=4, segments=12, chunk=16)
    )
    seen: list[float] = []
    update = training._update

    def watched(batch, number):
        seen.extend(batch.X[batch.weight.any(axis=2)].sum(axis=-1).tolist())
        return update(batch, number)

    monkeypatch.setattr(training, "_update", watched)
    run(training)
    expected = training.recorded.X[650 % 12 : 650][:-1].sum(axis=-1)  # the label of the last tick is not known
    np.testing.assert_array_equal(np.sort(seen), np.sort(np.repeat(expected, 2)))


def test_forecasts_of_a_part_equal_those_of_the_whole_run_after_the_warm_up() -> None:
    of = network(head_init=0.5)
    data = recorded(of, oscillation(1500))
    weights = of.weights(of.init_params())
    whole, stretch = forecasts(of, weights, data, 0, 1500), forecasts(of, weights, data, 1000, 1400)
    assert whole.std() > 0.1
    np.testing.assert_allclose(stretch, whole[1000:1400], atol=1e-6)  # after WARM_TICKS the start does not matter


@pytest.mark.parametrize("where", ["a training label", "a held-out label", "a feature"])
def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_best_weights(where: str) -> None:
    of = network()
    training = OfflineTraining(of, recorded(of, oscillation(300)), 240, OfflineSettings.truncated(10, 10, 240, 16))
    data, epochs, kept = training.recorded, training.epochs(), []
    for _ in range(3):
        kept.append(next(epochs))
    best = training.best
    {"a training label": data.Y[100], "a held-out label": data.Y[250], "a feature": data.X[100]}[where][...] = np.nan
    with pytest.raises(Diverged, match=r"(loss|norm).* is nan.*epoch 3|epoch 3 is nan"):
        next(epochs)
    assert training.best is best
    assert best.epoch == max(epoch.number for epoch in kept if epoch.best)
    assert best.loss == kept[best.epoch].held_out


@pytest.mark.parametrize(("ticks", "rows", "segments"), [(20, 1, 1), (500, 3, 3), (1600, 8, 8), (50_000, 8, 312)])
def test_a_history_is_cut_into_segments_of_about_ten_windows(ticks: int, rows: int, segments: int) -> None:
    settings = OfflineSettings.truncated(1, 1, ticks, 16)
    assert (settings.rows, settings.segments, settings.chunk) == (rows, segments, 16)


# --- one update compared with the plain definition: the step of sgd is the gradient


def stepped(recorded: Recorded, of: Network, settings: OfflineSettings) -> np.ndarray:
    """Return the weights after one epoch over the whole series."""
    training = OfflineTraining(of, recorded, len(recorded.X), settings)
    run(training)
    return training.weights.flat


@pytest.mark.parametrize("keys", [{}, {"layers": 2}, {"cell": "gru", "horizon": 3, "window": 16}], ids=str)
def test_a_whole_sequence_step_equals_the_gradient_of_the_mean_loss(keys) -> None:
    of = network(optimizer="sgd", clip=1e6, learning_rate=0.5, head_init=0.4, **keys)
    training = OfflineTraining(of, recorded(of, oscillation(60)), 60, OfflineSettings.whole(1, 1))
    run(training)
    data, first, after = training.recorded, of.init_params(), training.weights.flat

    slow = SlowLearner(of.spec, of.layout.views(first))
    state, tapes = np.zeros(slow.state_size), []
    for row in data.X:
        state, *tape = slow.network_step(state, row.astype(np.float64))
        tapes.append(tape)
    grad, dstate = {name: np.zeros_like(value) for name, value in slow.params.items()}, np.zeros(slow.state_size)
    labelled = data.weight.any(axis=1).sum()
    for t in reversed(range(60)):
        cells, z, p = tapes[t]
        dp = data.weight[t] * (p.ravel() - data.Y[t]) / labelled
        dstate = slow.network_back(cells, z, dp, dstate, grad)
    expected = np.concatenate([grad[name].ravel() for name in of.layout.shapes])
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose((first - after) / 0.5, expected, atol=2e-6)  # float32 weights of size 1, over the rate


def test_the_step_of_parallel_segments_is_the_mean_of_their_gradients() -> None:
    of = network(optimizer="sgd", clip=1e6, learning_rate=0.5, head_init=0.4)
    data = recorded(of, oscillation(120))
    data.weight[0] = 0  # no scale is known yet
    data.weight[29::30] = 0  # a segment alone ends there, without its last label
    first = of.init_params()
    together = stepped(data, of, OfflineSettings.whole(1, 1, segments=4))
    parts = [Recorded._make([*(part[a : a + 30] for part in data[:5]), 0]) for a in range(0, 120, 30)]
    labels = np.array([part.weight.any(axis=1).sum() for part in parts])
    alone = np.stack([stepped(part, of, OfflineSettings.whole(1, 1)) - first for part in parts])
    np.testing.assert_allclose(together - first, labels / labels.sum() @ alone, atol=1e-6)
    assert np.abs(together - first).max() > 0.01


@pytest.mark.parametrize("settings", [
    OfflineSettings(epochs=3, patience=9, rows=1, segments=1, chunk=16),
    OfflineSettings(epochs=3, patience=9, rows=2, segments=6, chunk=16),
    OfflineSettings(epochs=3, patience=9, rows=6, segments=6, chunk=0),
])  # fmt: skip
def test_the_hidden_state_is_carried_from_chunk_to_chunk_and_from_segment_to_segment(settings) -> None:
    of = network(optimizer="sgd", learning_rate=1e-30, head_init=0.5)  # weights do not change, only states can
    training = OfflineTraining(of, recorded(of, oscillation(300)), 300, settings)
    epochs, data = run(training), training.recorded
    whole = score(of, training.weights, data, 0, 300)
    np.testing.assert_allclose(training.weights.flat, of.init_params(), rtol=0, atol=1e-27)
    # In the first epoch all segments start at zeros, which is right for the single segment of the first case.
    assert epochs[-1].train == pytest.approx(whole, rel=1e-6)
    assert (epochs[1].train == pytest.approx(whole, rel=1e-6)) == (settings.segments == 1)


@pytest.mark.parametrize("cell", ["lru", "mingru"])
def test_with_traces_the_gradients_of_chunks_add_up_to_that_of_the_whole_series(cell: str) -> None:
    gradients = []
    for rule, chunk in (("rtrl", 7), ("rtrl", 0), ("tbptt", 7)):
        of = network(cell=cell, rule=rule, optimizer="sgd", clip=1e6, learning_rate=1e-30, head_init=0.4)
        settings = OfflineSettings(epochs=1, patience=1, rows=2, segments=2, chunk=chunk)
        training = OfflineTraining(of, recorded(of, oscillation(120)), 120, settings)
        total, update = np.zeros(of.layout.size), training._update

        def adding(batch: Batch, number: int, add=total, to=training, inner=update) -> float:
            labelled = int(batch.weight.any(axis=2).sum())
            loss = inner(batch, number)  # with a rate of 1e-30 the step is smaller than the gradient by that factor
            add += labelled * to._grad.flat.astype(np.float64) / 1e-30
            return loss

        training._update = adding  # type: ignore[method-assign]
        run(training)
        gradients.append(total)
    exact, whole, truncated = gradients
    size = np.abs(whole).max()
    np.testing.assert_allclose(exact, whole, rtol=0, atol=1e-4 * size)
    assert np.abs(truncated - whole).max() > 1e-2 * size


# --- external labels


def filtered(ticks: int) -> tuple[np.ndarray, np.ndarray]:
    """Return white inputs [ticks, 1] and a leaky sum of past inputs, which only a model with memory can predict."""
    x = np.random.default_rng(0).standard_normal((ticks, 1))
    y = np.zeros_like(x)
    for t in range(1, ticks):
        y[t] = 0.8 * y[t - 1] + x[t]
    return x.astype(np.float32), (1e4 + 50 * y).astype(np.float32)


OUTSIDE: dict[str, dict[str, Any]] = {
    "regress": {"task": "regress", "targets": ["y"]},
    "classify": {"task": "classify", "classes": ["low", "high"], "class_weights": [1.0, 2.0]},
}


@pytest.mark.parametrize("task", OUTSIDE)
def test_external_labels_teach_a_memory_of_the_inputs(task: str) -> None:
    of = network(scaler="none", learning_rate=1e-2, **OUTSIDE[task])
    x, y = filtered(3000)
    labels = y if task == "regress" else np.eye(2, dtype=np.float32)[(y[:, 0] > 1e4).astype(int)]
    labels[5::7] = np.nan
    data = prepare(of, x, np.full(3000, np.nan), labels)
    training = OfflineTraining(of, data, 2400, OfflineSettings.truncated(40, 8, 2400, 16))
    epochs = run(training)
    beside = {
        name: loss_of(of, training.recorded, p, 2400, 3000)
        for name, p in references(of, training.recorded, 2400).items()
    }
    assert training.best.loss < 0.3 * min(beside.values())
    # A zero readout answers the running mean of the labels, or equal probabilities of the classes, here about right.
    assert epochs[0].held_out == pytest.approx(beside["mean" if task == "regress" else "frequency"], rel=0.05)
    if task == "regress":  # the best linear answer from the current value leaves 0.64 of y unexplained
        variance = float(np.nanvar(labels) / of.weights(training.best.flat).target["scale"][0] ** 2)
        assert beside["linear"] == pytest.approx(0.5 * 0.64 * variance, rel=0.15)


def test_references_are_least_squares_fits_means_and_frequencies_of_the_train_ticks() -> None:
    of = network(scaler="none", task="regress", targets=["y", "z"])
    x, _ = filtered(300)
    labels = np.concatenate([3 * x - 1, np.full_like(x, np.nan)], axis=1)
    labels[200:, 0] = 1e6  # not train ticks
    training = OfflineTraining(of, prepare(of, x, np.full(300, np.nan), labels), 200, OfflineSettings.whole(1, 1))
    made, scale = references(of, training.recorded, 200), training.weights.target["scale"][0]
    np.testing.assert_allclose(made["mean"], np.zeros((100, 2)), atol=1e-6)
    exact = (3 * x[200:, 0] - 1 - training.weights.target["mean"][0]) / scale
    np.testing.assert_allclose(made["linear"][:, 0], exact, atol=5e-3)  # RIDGE shrinks weights by a thousandth
    assert not made["linear"][:, 1].any()  # this output has no label

    of = network(task="classify", classes=["a", "b"])
    labels = np.eye(2, dtype=np.float32)[(np.arange(300) % 4 == 0).astype(int)]
    training = OfflineTraining(of, prepare(of, x, np.full(300, np.nan), labels), 200, OfflineSettings.whole(1, 1))
    made = references(of, training.recorded, 200)
    np.testing.assert_allclose(np.exp(made["frequency"][0]), [151 / 202, 51 / 202], rtol=1e-6)


# --- several series


def test_several_series_are_combined_without_a_label_or_segment_across_their_borders():
    of, lengths, cuts = network(horizon=2), (90, 120, 50), (72, 96, 40)
    series = [recorded(of, oscillation(n)) for n in lengths]
    joined, spans = side_by_side(series, cuts)
    for one, span, cut in zip(series, spans, cuts, strict=True):
        np.testing.assert_array_equal(joined.X[span.begin : span.cut], one.X[:cut])
        np.testing.assert_array_equal(joined.Y[span.held : span.end], one.Y[cut:])
    assert (spans[0].begin, spans[-1].cut, spans[0].held, spans[-1].end) == (0, 208, 208, 260)
    weight = known_by(joined, 2, 208, spans)
    parts = np.concatenate([known_by(one, 2, cut) for one, cut in zip(series, cuts, strict=True)])
    np.testing.assert_array_equal(weight, parts)
    length, begins = cut_segments(spans, 5)
    assert len(begins) == 5
    for begin in begins:
        assert any(span.begin <= begin and begin + length <= span.cut for span in spans)


def test_forecasts_of_one_series_among_several_equal_those_of_it_alone():
    of = network()
    series = [recorded(of, oscillation(n)) for n in (90, 120)]
    joined, spans = side_by_side(series, (72, 96))
    weights = of.weights(of.init_params())
    made = forecasts(of, weights, joined, 168, 210, spans)
    alone = [forecasts(of, weights, one, cut, len(one.X)) for one, cut in zip(series, (72, 96), strict=True)]
    np.testing.assert_array_equal(made, np.concatenate(alone))
