"""`freshet train` for the tasks whose labels are in columns of their own."""

from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from model.network import Network
from model.spec import ModelSpec
from service.engine.export import read_weights
from tests.service.test_train import run

ROWS = 1200


def echo() -> tuple[np.ndarray, np.ndarray]:
    """[ROWS] inputs, and a leaky sum of the past ones."""
    x = np.random.default_rng(0).standard_normal(ROWS)
    y = np.zeros(ROWS)
    for t in range(1, ROWS):
        y[t] = 0.8 * y[t - 1] + x[t]
    return x, y


def write(path: Path, **columns: object) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[*columns], *zip(*columns.values(), strict=True)])
    return path


@pytest.fixture
def regress(tmp_path) -> Path:
    """Channel a, label y near 500, empty in every fifth row, and a note."""
    x, y = echo()
    labels = [f"{500 + 20 * value:.3f}" if n % 5 else "" for n, value in enumerate(y)]
    return write(tmp_path / "r.csv", a=x, y=labels, b=x[::-1])


@pytest.fixture
def classify(tmp_path) -> Path:
    """Channel a, and its class."""
    x, y = echo()
    return write(tmp_path / "c.csv", state=np.where(y > 0.5, "high", np.where(y < -0.5, "low", "mid")), a=x)


REGRESS = ("--set", "task=regress", "--set", "scaler=none", "--set", "hidden=8", "--learning-rate", 0.01)
CLASSIFY = ("--set", "task=classify", "--set", "scaler=none", "--set", "hidden=8", "--learning-rate", 0.01)


def test_a_regression_is_learned_from_a_column_and_the_labels_units_are_in_the_weights(tmp_path, regress):
    out = tmp_path / "m"
    result = run("train", regress, *REGRESS, "--labels", "y", "--columns", "a", "--epochs", 30, "--out", out)
    assert result.exit_code == 0, result.output
    assert f"labels: {ROWS * 4 // 5} of y" in result.stderr
    spec = ModelSpec.from_mapping(tomllib.loads((out / "model.toml").read_text()))
    assert (spec.task, spec.channels, spec.targets) == ("regress", ("a",), ("y",))
    held_out = json.loads((out / "history.json").read_text())["held_out"]
    assert held_out["freshet"] < 0.3 * min(held_out["mean"], held_out["linear"])

    network = Network(spec)
    weights = network.weights(read_weights(network, (out / "weights.safetensors").read_bytes()))
    state, (x, y) = np.zeros((1, network.state_size), np.float32), echo()
    answers = []
    for value in x:
        answer, state = network.step(weights, np.array([[value]], np.float32), np.zeros((1, 0), np.float32), state)
        answers.append(answer[0, 0])
    assert np.std(np.array(answers[960:]) - (500 + 20 * y[960:])) < 0.4 * np.std(20 * y[960:])


def test_all_columns_but_time_and_labels_are_channels_and_targets_may_name_the_labels(tmp_path, regress):
    out = tmp_path / "m"
    result = run("train", regress, *REGRESS, "--set", 'targets=["y"]', "--epochs", 1, "--out", out)
    assert result.exit_code == 0, result.output
    assert tomllib.loads((out / "model.toml").read_text())["channels"] == ["a", "b"]


def test_a_classification_is_learned_from_a_column_of_names(tmp_path, classify):
    out = tmp_path / "m"
    result = run("train", classify, *CLASSIFY, "--labels", "state", "--epochs", 30, "--out", out)
    assert result.exit_code == 0, result.output
    spec = ModelSpec.from_mapping(tomllib.loads((out / "model.toml").read_text()))
    assert (spec.classes, spec.channels, spec.loss) == (("high", "low", "mid"), ("a",), "cross_entropy")
    held_out = json.loads((out / "history.json").read_text())["held_out"]
    assert held_out["freshet"] < 0.5 * held_out["frequency"]
    assert "freshet backtest" not in result.stdout  # which replays forecasts only


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), ["labels", "task regress needs them", "--labels"]),
        (("--labels", "z"), ["labels = z", "no such column", "a, y, b"]),
        (("--labels", "y", "--set", 'targets=["q"]'), ["labels = y", "targets q"]),
        (("--set", "targets=y"), ["targets = 'y'", "give a list"]),
        (("--labels", "y", "--columns", "a,y"), ["labels = y", "also a channel"]),
        (("--labels", "y", "--set", "task=forecast"), ["labels = y", "a forecast needs none"]),
        (("--labels", "y", "--set", "task=guess"), ["labels = y", "task=regress"]),
        (("--labels", "y", "--set", "horizon=3"), ["horizon = 3", "has no horizon"]),
        (("--labels", "y,b", "--set", "task=classify"), ["labels = y, b", "one column"]),
        (("--labels", "a", "--set", "task=classify"), ["labels = a", f"{ROWS} different values"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_labels_that_cannot_be_are_refused_by_name(tmp_path, regress, arguments, named):
    result = run("train", regress, *REGRESS, *arguments, "--out", tmp_path / "m")
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert all(word in result.stderr for word in named), result.stderr


@pytest.mark.parametrize(
    ("cell", "named"),
    [
        ("high", ["row 7 (line 9), column y = high", "not a number", "leave it empty"]),
        ("inf", ["row 7 (line 9), column y = inf", "finite"]),
        ("1e16", ["row 7 (line 9), column y = 1e16", "at most 1e+15"]),
    ],
)
def test_a_label_that_is_no_number_is_refused_with_its_place(tmp_path, cell, named):
    file = write(tmp_path / "r.csv", a=range(100), y=[cell if n == 7 else n for n in range(100)])
    result = run("train", file, *REGRESS, "--labels", "y", "--out", tmp_path / "m")
    assert result.exit_code == 2
    assert all(word in result.stderr for word in named), result.stderr


def test_a_class_that_the_spec_does_not_have_is_refused_with_its_place(tmp_path, classify):
    result = run("train", classify, *CLASSIFY, "--set", 'classes=["high", "low"]', "--labels", "state")
    assert result.exit_code == 2
    assert all(word in result.stderr for word in ("column state = mid", "no such class", "high, low")), result.stderr


@pytest.mark.parametrize(("labelled", "what"), [(range(80, 100), "80 rows to learn from"), (range(80), "20 rows held")])
def test_a_history_without_labels_where_they_are_needed_is_refused(tmp_path, labelled, what):
    file = write(tmp_path / "r.csv", a=range(100), y=[n if n in labelled else "" for n in range(100)])
    result = run("train", file, *REGRESS, "--labels", "y", "--out", tmp_path / "m")
    assert result.exit_code == 2
    assert what in result.stderr


def test_a_backtest_of_another_task_is_refused(regress):
    keys = ("--set", "task=regress", "--set", 'targets=["y"]')
    result = run("backtest", regress, "--columns", "a", *keys)
    assert result.exit_code == 2
    assert "task = regress" in result.stderr
