"""Many series in one file, `--id COLUMN`: each is a stream of one model, with an order, units and errors of its own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from model.fold.learner import Learner
from service.cli.main import app
from service.programs.backtest import core
from service.programs.backtest.command import backtest
from service.programs.backtest.plan import make_plan
from service.programs.offline.plan import make_offline_plan
from service.programs.offline.run import train
from service.programs.tables.options import Options

SMALL = {"hidden": 8, "learning_rate": 3e-3}


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def waves(rows: int, scale: float, phase: float) -> np.ndarray:
    noise = np.random.default_rng(int(phase)).normal(0, 0.1, rows)
    return scale * (np.sin(np.arange(rows) / 5 + phase) + noise)


def write(path: Path, series: dict[str, np.ndarray], ids: bool = True) -> Path:
    """Hourly rows, the entities' in turn as long as each has some."""
    times = np.datetime64("2024-01-01") + np.arange(max(map(len, series.values()))) * np.timedelta64(1, "h")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", *(["site"] if ids else []), "load"])
        for n, time in enumerate(times):
            for name, values in series.items():
                if n < len(values):
                    writer.writerow([time, *([name] if ids else []), values[n]])
    return path


@pytest.fixture
def many(tmp_path) -> Path:
    series = {"north": waves(300, 1, 0), "south": waves(300, 1000, 2), "west": waves(200, 0.01, 4)}
    return write(tmp_path / "many.csv", series)


def test_one_entity_is_replayed_as_the_same_rows_without_ids(tmp_path):
    values = {"north": waves(120, 1, 0)}
    alone = make_plan(write(tmp_path / "alone.csv", values, ids=False), model=SMALL)
    named = make_plan(write(tmp_path / "named.csv", values), model=SMALL, options=Options(id="site"))
    made = [list(core.every_forecast(Learner(plan.spec), plan)) for plan in (alone, named)]
    for (_, row, ours), (_, other_row, theirs) in zip(*made, strict=True):
        assert row == other_row
        np.testing.assert_array_equal(ours, theirs)


def test_rows_go_by_time_and_no_entity_sees_the_state_of_another(many):
    plan = make_plan(many, model={**SMALL, "learn": False, "head_init": 0.3}, options=Options(id="site"))
    places = [(n, row) for n, row, _ in core.every_forecast(Learner(plan.spec), plan)]
    assert places[:4] == [(0, 0), (1, 0), (2, 0), (0, 1)]
    assert len(places) == plan.all_rows == 800
    made = [forecast for n, _, forecast in core.every_forecast(Learner(plan.spec), plan) if n == 1]
    alone = list(core.forecasts(Learner(plan.spec), plan.alone(plan.entities[1])))
    np.testing.assert_array_equal(made, alone)


def test_the_errors_are_the_mean_over_all_entities_each_in_its_own_units(many, tmp_path):
    out = tmp_path / "made.csv"
    plan = make_plan(many, model=SMALL, options=Options(id="site"))
    report = backtest(plan, forecasts=out)
    with out.open() as file:
        lines = list(csv.DictReader(file))
    squares = []
    for series in plan.entities:
        unit = series.x[: len(series.x) // 5].astype(float).std()
        mine = [line for line in lines if line["series"] == series.entity]
        assert len(mine) == len(series.x) - len(series.x) // 4
        squares += [((float(m["truth_load"]) - float(m["forecast_load"])) / unit) ** 2 for m in mine]
    assert report.freshet.mse == pytest.approx(np.mean(squares), rel=1e-4)  # the file holds float32
    assert report.scored == len(squares)
    assert report.freshet.mse < report.persistence.mse
    alone = [backtest(plan.alone(series)) for series in plan.entities]
    for name, scores in report.forecasters.items():
        if name != "freshet":  # one model learns from all, each series has its own baselines
            assert scores.overall.mse == pytest.approx(
                np.average([a.forecasters[name].overall.mse for a in alone], weights=[a.scored for a in alone])
            )


def test_the_command_replays_and_trains_many_and_says_so(many, tmp_path):
    ids = ("--id", "site", "--set", "hidden=8")
    result = run("backtest", many, *ids, "--rows", 150, "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    assert "3 entities by site" in result.stderr
    assert json.loads((tmp_path / "out.json").read_text())["rows"] == 450
    result = run("train", many, *ids, "--epochs", 6, "--out", tmp_path / "model")
    assert result.exit_code == 0, result.output
    history = json.loads((tmp_path / "model" / "history.json").read_text())
    assert (history["rows"], history["train_rows"]) == (800, 640)
    assert history["held_out"]["freshet"] < history["held_out"]["persistence"]


def test_a_whole_sequence_training_has_a_segment_for_each_entity(many):
    plan = make_offline_plan(many, model=SMALL, options=Options(id="site"), mode="whole", epochs=2)
    assert plan.settings.segments == 3
    assert [epoch.updates for epoch in train(plan).epochs] == [0, 1, 2]


def test_labels_of_each_entity_stay_beside_their_rows(tmp_path):
    file = tmp_path / "labels.csv"
    lines = ["time,site,load,hot"]
    for n in range(80):
        for site, level in (("a", n), ("b", -n)):
            lines.append(f"2024-01-{1 + n // 24:02d} {n % 24:02d}:00,{site},{level},{'yes' if level > 20 else 'no'}")
    file.write_text("\n".join(lines) + "\n")
    plan = make_offline_plan(file, labels="hot", model={"task": "classify", **SMALL}, options=Options(id="site"))
    assert plan.labels is not None
    assert plan.spec.channels == ("load",)
    for series, labels in zip(plan.plan.entities, plan.labels, strict=True):
        np.testing.assert_array_equal(labels[:, 1] == 1, series.x[:, 0] > 20)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--id", "town"), ["id = town", "no such column"]),
        (("--id", "load"), ["entity"]),
        (("--id", "site", "--rows", "250"), ["rows = 250", "2 to 200"]),
        (("--id", "site", "--score-from", "250"), ["score_from of west = 250"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_an_entity_has_not_is_refused_by_name(many, arguments, named):
    result = run("backtest", many, *arguments)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert all(word in result.stderr for word in named), result.stderr


def test_a_training_begins_with_weights_that_are_given(many, tmp_path):
    first = run(
        "train", many, "--id", "site", "--set", "hidden=8", "--horizon", 2, "--epochs", 4, "--out", tmp_path / "a"
    )
    assert first.exit_code == 0, first.output
    again = run("train", many, "--id", "site", "--weights", tmp_path / "a", "--epochs", 1, "--out", tmp_path / "b")
    assert again.exit_code == 0, again.output
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in "ab"]
    assert histories[1]["epochs"][0]["held_out"] == pytest.approx(histories[0]["held_out"]["network"], rel=1e-6)
    assert "horizon = 2" in (tmp_path / "b" / "model.toml").read_text()
    other = run(
        "train", many, "--id", "site", "--weights", tmp_path / "a", "--set", "hidden=9", "--out", tmp_path / "c"
    )
    assert other.exit_code == 2
    assert "weights = " in other.stderr
    assert not (tmp_path / "c").exists()
