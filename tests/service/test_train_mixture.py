"""`freshet train` of a mixture or of intervals: the last pass teaches what the epochs do not."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.fold.learner import Learner
from model.network import Network
from model.offline.recorded import prepare, scale_labels
from model.offline.training import loss_of
from model.parameters import Weights
from model.spec import ModelSpec
from service.console.files import load_weights
from service.engine.export import read_weights
from service.programs.backtest.plan import make_plan
from tests.service.test_backtest import run, write

MIXED = ("--set", "forecaster=mixture", "--set", "hidden=8", "--epochs", 2)


def days(rows: int) -> np.ndarray:
    """Two channels of a daily wave with noise, (rows, 2)."""
    t = np.arange(rows)[:, None]
    return 10 + 3 * np.sin(2 * np.pi * t / 24 + np.arange(2)) + np.random.default_rng(1).normal(0, 0.3, (rows, 2))


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("days") / "a.csv", days(300), ["a", "b"])


def train(out: Path, *arguments: object) -> tuple[dict[str, Any], str]:
    """Train and return what history.json holds, and what was printed."""
    result = run("train", *arguments, "--out", out)
    assert result.exit_code == 0, result.output
    return json.loads((out / "history.json").read_text()), result.output


def written(out: Path) -> tuple[Network, Weights]:
    spec = ModelSpec.from_mapping(tomllib.loads((out / "model.toml").read_text()))
    network = Network(spec)
    return network, network.weights(read_weights(network, load_weights(out, spec)))


def of_the_network(weights: Weights) -> list[np.ndarray]:
    return [part for layer in (*weights.cells, weights.head) for part in layer.values()]


def without_last_pass(patch: pytest.MonkeyPatch, out: Path, *arguments: object) -> Weights:
    """Return the weights that the epochs alone leave."""
    with patch.context() as context:
        context.setattr("service.programs.offline.experts.is_needed", lambda _: False)
        train(out, *arguments)
    return written(out)[1]


@pytest.mark.parametrize("mode", ["truncated", "whole"])
@pytest.mark.parametrize("horizon", [1, 3])
def test_the_experts_learn_as_in_the_fold_and_the_network_stays_as_the_epochs_left_it(
    tmp_path, file, monkeypatch, mode, horizon
):
    arguments = (file, *MIXED, "--mode", mode, "--horizon", horizon)
    epochs = without_last_pass(monkeypatch, tmp_path / "epochs", *arguments)
    history, printed = train(tmp_path / "model", *arguments)

    network, weights = written(tmp_path / "model")
    for kept, own in zip(of_the_network(epochs), of_the_network(weights), strict=True):
        np.testing.assert_array_equal(own, kept)
    twin, forecasts = replayed(network.spec, epochs.flat, file)
    np.testing.assert_array_equal(weights.flat, twin.weights.flat)
    assert history["held_out"]["freshet"] == pytest.approx(held_out_loss(network, forecasts, file), rel=1e-5)
    assert history["held_out"]["network"] == history["epochs"][history["best_epoch"]]["held_out"]
    assert history["mixture"] == network.mixture_weights(weights)
    assert sum(history["mixture"].values()) == pytest.approx(1)
    assert f"freshet {history['held_out']['freshet']:.4f}, network {history['held_out']['network']:.4f}, " in printed
    assert "the network did not" in printed


def replayed(spec: ModelSpec, flat: np.ndarray, file: Path) -> tuple[Learner, np.ndarray]:
    """Return a learner whose network's gradient moves nothing, after all rows, and its forecasts (rows, H, K)."""
    plan = make_plan(file, model=spec.to_mapping())
    learner, made = Learner(spec), []
    learner.network.learned = []
    learner.weights.flat[...] = flat
    network, x = learner.network, plan.series.x
    state, u = np.zeros((1, network.state_size), np.float32), network.ahead.inputs(plan.times)
    for i in range(len(x)):
        now = slice(i, i + 1)
        learner.ticks(np.zeros(1, np.uint32), np.array([i + 1], np.uint64), plan.times[now], x[now])
        y, state = network.step(learner.weights, x[now], u[now], state)
        added = plan.added
        made.append(y.reshape(spec.horizon, -1) + (0 if added is None else added))
    return learner, np.array(made)


def held_out_loss(network: Network, forecasts: np.ndarray, file: Path) -> float:
    """Return the loss of forecasts of the last 60 of 300 rows."""
    plan = make_plan(file, model=network.spec.to_mapping())
    recorded = prepare(network, plan.series.x, plan.times)
    recorded = scale_labels(network, network.weights(network.init_params()), recorded, 240)
    added = 0 if plan.added is None else plan.added
    p = (forecasts - added - recorded.last[:, None]) / np.where(recorded.scale > 0, recorded.scale, 1)
    return loss_of(network, recorded, p[240:].reshape(60, -1).astype(np.float32), 240, 300)


def test_a_mixture_is_better_on_the_held_out_rows_than_its_network(tmp_path, file):
    history, printed = train(tmp_path / "model", file, *MIXED)
    held_out = history["held_out"]
    assert held_out["freshet"] < 0.9 * held_out["network"]
    assert "mixture       " in printed
    assert "mixture" in (tmp_path / "model" / "loss.svg").read_text()


def test_each_of_several_series_teaches_the_experts_of_one_model(tmp_path):
    rows = days(160)
    lines = ["date,id,a"]
    for name, values in (("one", rows[:, 0]), ("two", rows[:, 1])):
        lines += [f"{np.datetime64('2024-01-01') + np.timedelta64(i, 'h')},{name},{v}" for i, v in enumerate(values)]
    file = tmp_path / "two.csv"
    file.write_text("\n".join(lines) + "\n")
    history, _ = train(tmp_path / "model", file, "--id", "id", *MIXED)
    assert (history["rows"], history["held_out_rows"]) == (320, 64)
    assert history["held_out"]["freshet"] < history["held_out"]["network"]


def test_without_held_out_rows_the_experts_learn_all_rows(tmp_path, file):
    history, _ = train(tmp_path / "model", file, *MIXED, "--held-out", 0)
    assert history["held_out"]["freshet"] is None
    _, weights = written(tmp_path / "model")
    assert weights.experts["squares"].any()


def test_an_interrupt_in_the_last_pass_keeps_a_model_that_answers_with_its_network(tmp_path, file, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("service.programs.offline.experts.teach", interrupted)
    result = run("train", file, *MIXED, "--out", tmp_path / "model")
    assert result.exit_code == 130
    network, weights = written(tmp_path / "model")
    assert network.mixture_weights(weights)["network"] == 1
    assert json.loads((tmp_path / "model" / "history.json").read_text())["stopped"] == "interrupted"


def test_intervals_of_a_network_are_as_wide_as_its_errors_after_a_training(tmp_path, file):
    history, _ = train(tmp_path / "model", file, *MIXED[2:], "--set", "forecaster=network", "--set", "intervals=[0.8]")
    network, weights = written(tmp_path / "model")
    assert "network" not in history["held_out"]
    assert (weights.interval["count"] > 20).all()
    first = network.weights(network.init_params()).interval
    assert (weights.interval["log"] != first["log"]).all()


@pytest.mark.parametrize("mode", ["truncated", "whole"])
def test_a_loss_with_a_spread_is_trained_and_the_last_pass_calibrates_its_bounds(
    mode: str, file: Path, tmp_path: Path
) -> None:
    keys = ("loss=pinball", "intervals=[0.5, 0.9]", "hidden=4", "accumulate=3", "clip_value=0.5", "optimizer=rmsprop")
    settings = [word for key in keys for word in ("--set", key)]
    history, printed = train(tmp_path / "out", file, *settings, "--mode", mode, "--epochs", 2)

    network, weights = written(tmp_path / "out")
    assert network.spec.forecaster == "network"
    assert weights.head["W"].shape[0] == 5 * 2  # median and two sizes per level, of two channels
    assert (weights.interval["count"] > 200).all()
    assert "horizon 1, loss pinball" in printed
    held = [epoch["held_out"] for epoch in history["epochs"]]
    assert history["held_out"]["freshet"] == min(held) < held[0]
    assert held[0] == pytest.approx(history["held_out"]["persistence"], rel=1e-5)  # with a new model's spread
