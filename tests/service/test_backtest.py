import csv
import json
import math
import re
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from model.spec import ModelSpec, SpecError
from service.cli.main import app
from service.console.verbs import SPEC_KEYS
from service.programs.backtest.command import backtest, finish
from service.programs.backtest.plan import make_plan, model_keys
from service.programs.backtest.report import Quantiles, Report, best_line
from service.programs.backtest.scoring import Errors
from service.programs.backtest.scrape import parse
from service.programs.tables.options import Options

TAXI = Path(str(resources.files("service.cli") / "data" / "nyc_taxi.csv"))
KEYS = {
    "rows", "scored", "horizon", "freshet", "persistence", "rls", "updates", "versions", "vetoes", "staleness",
    "freshness_s", "latency_ms", "wall_s", "forecasters", "mixture",
}  # fmt: skip


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write(path: Path, rows: np.ndarray, names: list[str], start: str = "2024-01-01") -> Path:
    times = np.datetime64(start) + np.arange(len(rows)) * np.timedelta64(1, "h")
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["date", *names], *([str(t), *map(str, row)] for t, row in zip(times, rows, strict=True))]
        )
    return path


def read(path: Path) -> tuple[list[str], np.ndarray]:
    with path.open(newline="") as file:
        header, *lines = csv.reader(file)
    return header, np.array(lines, float)


def waves(rows: int, channels: int) -> np.ndarray:
    t = np.arange(rows)[:, None]
    noise = np.random.default_rng(1).normal(0, 0.1, (rows, channels))
    return np.sin(t / 5 + np.arange(channels)) + noise


def test_a_series_with_gaps_is_replayed_where_missing_values_are_held_and_no_gap_is_scored(tmp_path):
    x = waves(300, 2)
    x[np.random.default_rng(0).random(x.shape) < 0.2] = np.nan
    file, out, made = write(tmp_path / "gaps.csv", x, ["a", "b"]), tmp_path / "out.json", tmp_path / "made.csv"
    refused = run("backtest", file)
    assert refused.exit_code != 0
    assert 'missing = "hold"' in " ".join(refused.output.split())

    hold = ("--set", "missing=hold", "--set", "hidden=8", "--set", "learning_rate=3e-3")
    result = run("backtest", file, *hold, "--json", out, "--forecasts", made)

    assert result.exit_code == 0, result.output
    assert f"{int(np.isnan(x).sum())} values are missing" in result.output
    report, (_, lines) = json.loads(out.read_text()), read(made)
    unit = np.nanstd(x[:60], axis=0)
    errors = (lines[:, 2::2] - lines[:, 1::2]) / unit  # row, truth_a, forecast_a, …
    assert np.isnan(errors).sum() == np.isnan(x[75:]).sum()
    assert report["freshet"]["mse"] == pytest.approx(np.nanmean(errors**2), rel=1e-4)
    assert report["freshet"]["mse"] < 0.8 * report["persistence"]["mse"]
    assert 0 < report["rls"]["mse"] < report["persistence"]["mse"]
    assert all(0 < scores["mse"] < math.inf for scores in report["forecasters"].values())


@pytest.fixture(scope="module")
def taxi(tmp_path_factory) -> tuple[dict[str, Any], list[str], np.ndarray]:
    """The first 600 rows of the shipped series: report, header and rows of the forecasts."""
    folder = tmp_path_factory.mktemp("taxi")
    file, out, made = folder / "taxi.csv", folder / "out.json", folder / "made.csv"
    file.write_text("".join(TAXI.read_text().splitlines(keepends=True)[:601]))
    result = run("backtest", file, "--json", out, "--forecasts", made)
    assert result.exit_code == 0, result.output
    return json.loads(out.read_text()), *read(made)


def test_the_report_has_the_keys_of_the_contract_and_null_for_what_a_core_run_has_not(taxi):
    report, _, _ = taxi
    assert report.keys() == KEYS
    assert (report["rows"], report["scored"], report["horizon"], report["updates"]) == (600, 450, 1, 598)
    assert report["versions"] is None
    assert report["vetoes"] is None
    assert report["staleness"] == {"p50": None, "p95": None, "max": None}
    assert report["freshness_s"] == {"p50": None, "p95": None}
    assert report["latency_ms"] == {"p50": None, "p99": None}


def test_the_forecasts_written_are_those_scored_in_units_of_the_train_rows(taxi):
    report, header, made = taxi
    values = np.loadtxt(TAXI, delimiter=",", skiprows=1, usecols=1, max_rows=600)
    unit = values[:120].std()
    assert header == ["row", "truth_value", "forecast_value"]
    np.testing.assert_array_equal(made[:, 0], np.arange(150, 600))
    np.testing.assert_array_equal(made[:, 1], values[150:])
    z = (made[:, 2].astype(np.float32) - values[150:]) / unit  # written so that float32 reads them back exactly
    # The scorer and this sum add the same float64 numbers in another order.
    assert report["freshet"]["mse"] == pytest.approx((z**2).mean(), rel=1e-9)
    assert report["freshet"]["mae"] == pytest.approx(np.abs(z).mean(), rel=1e-9)
    z = (values[149:599] - values[150:]) / unit
    assert report["persistence"]["mse"] == pytest.approx((z**2).mean(), rel=1e-9)


def test_the_report_has_every_baseline_by_step_and_over_the_first_rows(taxi):
    report, _, made = taxi
    scores = report["forecasters"]
    assert list(scores) == ["freshet", "persistence", "rls", "rls_seasonal", "naive_day", "naive_week"]
    for name in ("freshet", "persistence", "rls"):
        assert {key: scores[name][key] for key in ("mse", "mae")} == report[name]
    values = np.loadtxt(TAXI, delimiter=",", skiprows=1, usecols=1, max_rows=600)
    unit = values[:120].std()
    for name, lag in (("naive_day", 48), ("naive_week", 336)):
        forecast = np.where(np.arange(600) < lag, np.roll(values, 1), np.roll(values, lag))  # persistence at first
        z = (forecast - values) / unit
        assert scores[name]["mse"] == pytest.approx((z[150:] ** 2).mean(), rel=1e-9)
        assert scores[name]["first_200"]["mae"] == pytest.approx(np.abs(z[1:200]).mean(), rel=1e-9)
        assert scores[name]["first_1000"]["mse"] == pytest.approx((z[1:] ** 2).mean(), rel=1e-9)
        assert scores[name]["steps"]["mse"] == [scores[name]["mse"]]
    assert scores["rls_seasonal"]["mse"] < scores["rls"]["mse"]
    assert len(made) == 450


def test_the_tables_have_a_column_for_some_steps_and_mark_the_best(tmp_path):
    t = np.arange(200)[:, None]
    file, out = write(tmp_path / "a.csv", np.sin(2 * np.pi * t / 24) * 5, ["a"]), tmp_path / "out.json"
    result = run("backtest", file, "--horizon", 8, "--set", "hidden=4", "--json", out)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    [header] = [line for line in lines if line[:2] == ["mse", "to"]]
    assert " ".join(header) == "mse to 200 to 1,000 step 1 step 2 step 4 step 6 step 8"
    scores = json.loads(out.read_text())["forecasters"]
    assert all(len(each["steps"][kind]) == 8 for each in scores.values() for kind in ("mse", "mae"))
    best = min(scores, key=lambda name: scores[name]["mse"])
    assert best == "naive_day"
    [row] = [line for line in lines if line[:1] == ["naive_day"] and len(line) == 8]
    assert all(cell.endswith("*") for cell in row[3:])
    assert any(line[:2] == ["best", "naive_day,"] for line in lines)


def test_the_weights_of_a_mixtures_experts_are_reported(tmp_path):
    file, out = write(tmp_path / "a.csv", waves(60, 1), ["a"]), tmp_path / "out.json"
    result = run("backtest", file, "--set", "forecaster=mixture", "--set", "hidden=8", "--json", out)
    assert result.exit_code == 0, result.output
    mixture = json.loads(out.read_text())["mixture"]
    assert list(mixture) == ["network", "squares_hidden", "squares", "persistence", "naive_day", "naive_week"]
    assert sum(mixture.values()) == pytest.approx(1)
    largest = max(mixture, key=mixture.__getitem__)
    assert re.search(rf"^mixture     {largest} \.\d\d, ", result.output, re.MULTILINE)
    run("backtest", file, "--set", "forecaster=network", "--set", "hidden=8", "--json", out)
    assert "mixture" not in json.loads(out.read_text())


def test_the_best_is_named_with_its_distance_to_the_next():
    a, b, broken = Errors(0.5, 1.0), Errors(2.0, 1.0), Errors(math.nan, math.nan)
    assert best_line({"freshet": b, "rls": a, "naive_day": broken}) == "rls, 75% below freshet"
    assert best_line({"freshet": a, "rls": a, "naive_day": b}) == "freshet and rls"
    assert best_line({"freshet": broken, "rls": a}) == ""


def test_a_series_without_event_times_has_no_seasonal_baselines(tmp_path):
    file, out = tmp_path / "a.csv", tmp_path / "out.json"
    file.write_text("a\n" + "\n".join(map(str, waves(80, 1)[:, 0])) + "\n")
    assert run("backtest", file, "--set", "hidden=4", "--json", out).exit_code == 0
    assert list(json.loads(out.read_text())["forecasters"]) == ["freshet", "persistence", "rls"]


def test_a_season_of_the_spec_names_its_baselines(tmp_path):
    file = write(tmp_path / "a.csv", waves(120, 1), ["a"])
    plan = make_plan(file, model={"hidden": 4, "forecaster": "mixture", "seasons": [43_200.0], "learn": False})
    assert list(backtest(plan).forecasters)[3:] == ["rls_seasonal", "naive_43200"]


def test_the_model_learns_the_taxi_series_better_than_persistence(taxi):
    report, _, _ = taxi
    assert report["freshet"]["mse"] < 0.8 * report["persistence"]["mse"]


def test_a_model_that_never_learns_is_persistence(tmp_path):
    file, out = write(tmp_path / "a.csv", waves(80, 2), ["a", "b"]), tmp_path / "out.json"
    assert run("backtest", file, "--set", "learn=false", "--horizon", 3, "--json", out).exit_code == 0
    report = json.loads(out.read_text())
    assert report["updates"] == 0
    assert report["horizon"] == 3
    assert report["freshet"] == report["persistence"]


def test_no_forecast_changes_when_the_rows_behind_its_origin_do(tmp_path):
    rows, cut = waves(120, 2), 90
    noise = rows.copy()
    noise[cut:] = np.random.default_rng(2).normal(0, 5, noise[cut:].shape)
    made = {}
    for name, values in (("true", rows), ("noise", noise)):
        file = write(tmp_path / f"{name}.csv", values, ["a", "b"])
        plan = make_plan(file, model={"horizon": 3, "hidden": 8, "learning_rate": 1e-2}, score_from=1)
        backtest(plan, forecasts=tmp_path / "made.csv")
        header, lines = read(tmp_path / "made.csv")
        assert header[:3] == ["origin", "step", "row"]
        made[name] = lines[lines[:, 0] < cut][:, [0, 1, 4, 6]]
    np.testing.assert_array_equal(made["true"], made["noise"])
    last = made["true"][made["true"][:, 0] == cut - 1]
    assert not np.allclose(last[:, 2:], rows[cut - 1], atol=1e-4), "learning was off: this test proves nothing"


def test_only_the_rows_asked_for_are_scored(tmp_path):
    file, out, made = write(tmp_path / "a.csv", waves(100, 3), ["a", "b", "c"]), tmp_path / "o.json", tmp_path / "m.csv"
    arguments = ("--columns", "c,a", "--train-rows", 30, "--score-from", 40, "--score-to", 60, "--set", "hidden=4")
    assert run("backtest", file, *arguments, "--json", out, "--forecasts", made).exit_code == 0
    report, (header, lines) = json.loads(out.read_text()), read(made)
    assert (report["rows"], report["scored"]) == (60, 20)
    assert header == ["row", "truth_c", "forecast_c", "truth_a", "forecast_a"]
    np.testing.assert_array_equal(lines[:, 0], np.arange(40, 60))


def test_other_seeds_give_other_weights_and_the_same_seed_the_same(tmp_path):
    file = write(tmp_path / "a.csv", waves(60, 1), ["a"])
    errors = []
    for seed in (1, 1, 2):
        keys = model_keys(seed=seed, settings=["hidden=8"])
        errors.append(backtest(make_plan(file, model=keys)).freshet)
    assert errors[0] == errors[1] != errors[2]


def test_settings_win_over_flags_and_flags_over_the_file(tmp_path):
    file = tmp_path / "model.toml"
    file.write_text("hidden = 8\nseed = 1\nhorizon = 2\n")
    settings = ["horizon=4", "cell=gru", "learning_rate=3e-4", 'targets=["a"]', "learn=false"]
    assert model_keys(file, settings, horizon=3, seed=2) == {
        "hidden": 8, "seed": 2, "horizon": 4, "cell": "gru", "learning_rate": 3e-4, "targets": ["a"], "learn": False,
    }  # fmt: skip


def test_targets_alone_are_forecast_and_scored(tmp_path):
    rows = waves(60, 3)
    file, made = write(tmp_path / "a.csv", rows, ["a", "b", "c"]), tmp_path / "made.csv"
    plan = make_plan(file, model={"targets": ["b"], "learn": False, "hidden": 4})
    report = backtest(plan, forecasts=made)
    header, lines = read(made)
    assert header == ["row", "truth_b", "forecast_b"]
    np.testing.assert_allclose(lines[:, 2], rows[14:59, 1], rtol=1e-6)  # float32 in the model
    assert report.freshet == report.persistence


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda lines: lines.__setitem__(5, "2024-01-01T04:00,1.0,"), ["row 4", "column b", "missing"]),
        (lambda lines: lines.__setitem__(5, "2024-01-01T04:00,off,1.0"), ["row 4", "column a", "off", "number"]),
        (lambda lines: lines.__delitem__(slice(2, None)), ["rows", "at least 2"]),
        (lambda lines: lines.clear(), ["rows"]),
    ],
    ids=["missing value", "text cell", "one row", "empty file"],
)
def test_a_file_that_cannot_be_replayed_is_refused_in_one_line(tmp_path, change, named):
    file = write(tmp_path / "a.csv", waves(20, 2), ["a", "b"])
    lines = file.read_text().splitlines()
    change(lines)
    file.write_text("\n".join(lines) + "\n")
    result = run("backtest", file)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert all(word in result.stderr for word in named)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--set", "hiden=8"), ["hiden", "unknown key", "hidden"]),
        (("--set", "hidden"), ["key=value"]),
        (("--set", "hidden=many"), ["hidden", "many", "whole number"]),
        (("--columns", "a,x"), ["column", "x"]),
        (("--time", "x"), ["column", "x"]),
        (("--score-from", "30"), ["score_from", "30"]),
        (("--horizon", "0"), ["horizon", "0"]),
        (("--config", "nowhere.toml"), ["nowhere.toml"]),
        (("--json", "no/such/folder.json"), ["json", "no/such/folder.json"]),
        (("--forecasts", "."), ["forecasts"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_argument_that_cannot_be_is_refused_by_name(tmp_path, arguments, named):
    file = write(tmp_path / "a.csv", waves(20, 2), ["a", "b"])
    result = run("backtest", file, *arguments)
    assert result.exit_code == 2
    assert all(word in result.stderr for word in named)
    assert "Traceback" not in result.output


def test_a_missing_file_is_refused_by_name():
    result = run("backtest", "nowhere.csv")
    assert result.exit_code == 2
    assert "nowhere.csv" in result.stderr


def test_a_calendar_without_event_times_is_refused(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("a\n" + "1\n2\n" * 10)
    with pytest.raises(SpecError, match=r"interval.*--time"):
        make_plan(file, model={"interval": 60.0})
    assert make_plan(file).spec.interval == 0


ZONE_LINE = "the clock of Europe/Berlin is changed twice a year, and days begin in UTC: --set zone=Europe/Berlin lets"


@pytest.mark.parametrize(
    ("zone", "model", "suggested"),
    [
        ("Europe/Berlin", {}, True),
        ("Europe/Berlin", {"zone": "Europe/Berlin"}, False),
        ("Europe/Berlin", {"interval": 0.0}, False),  # no calendar
        ("Asia/Kolkata", {}, False),  # its clock is never changed
        ("+01:00", {}, False),
        (None, {}, False),
    ],
)
def test_a_file_in_local_times_of_a_zone_with_summer_time_suggests_the_zone(tmp_path, zone, model, suggested):
    file = write(tmp_path / "a.csv", waves(60, 1), ["a"])
    plan = make_plan(file, options=Options(zone=zone), model=model)

    assert (ZONE_LINE in plan.describe()) == suggested
    assert plan.spec.zone == ("CET-1CEST,M3.5.0,M10.5.0/3" if model.get("zone") else "")


def test_a_zone_in_the_cells_suggests_it_too(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("time,a\n" + "".join(f"2024-01-01 {h:02}:00 Europe/Berlin,{h}\n" for h in range(24)))
    assert ZONE_LINE in make_plan(file).describe()
    with pytest.raises(SpecError, match="zone = 'Mars': no zone of that name"):
        make_plan(file, model={"zone": "Mars"})


def test_a_constant_column_is_forecast_as_itself(tmp_path):
    rows = np.column_stack([waves(60, 1), np.full(60, 7.5)])
    file, made = write(tmp_path / "a.csv", rows, ["a", "flat"]), tmp_path / "made.csv"
    report = backtest(make_plan(file, model={"hidden": 8}), forecasts=made)
    header, lines = read(made)
    np.testing.assert_array_equal(lines[:, header.index("forecast_flat")], 7.5)
    assert math.isfinite(report.freshet.mse)
    assert math.isfinite(report.rls.mse)


def test_fifty_columns_are_forecast_each(tmp_path):
    rows, names = waves(60, 50), [f"c{n}" for n in range(50)]
    file, made = write(tmp_path / "a.csv", rows, names), tmp_path / "made.csv"
    report = backtest(make_plan(file, model={"hidden": 8}), forecasts=made)
    header, lines = read(made)
    assert header[1::2] == [f"truth_{name}" for name in names]
    np.testing.assert_allclose(lines[:, 1::2], rows[15:], rtol=1e-6)  # float32 in the model
    assert report.scored == 45
    assert math.isfinite(report.freshet.mse)


def test_a_forecast_staler_than_allowed_fails_the_run(capsys):
    errors = Errors(1.0, 1.0)
    stale = Quantiles.of([1.0, 40.0])
    report = Report(
        rows=2, scored=1, horizon=1, freshet=errors, persistence=errors, rls=errors, staleness=stale, wall_s=1.0
    )
    assert finish(report, None, 40) == 0
    assert finish(report, None, 32) == 1
    assert "40 labels stale" in capsys.readouterr().err


def test_errors_that_are_not_finite_are_null_in_json():
    broken, sound = Errors(math.nan, math.inf), Errors(1.0, 1.0)
    report = Report(rows=2, scored=1, horizon=1, freshet=broken, persistence=sound, rls=sound, wall_s=1.0)
    assert report.to_mapping()["freshet"] == {"mse": None, "mae": None}


def test_metrics_of_other_models_are_not_counted():
    text = (
        "# TYPE freshet_learner_updates counter\n"
        'freshet_learner_updates_total{model="a"} 7\nfreshet_learner_updates_total{model="b"} 9\n'
        "# TYPE freshet_label_to_serving_seconds histogram\n"
        'freshet_label_to_serving_seconds_bucket{le="0.1",model="a"} 10\n'
        'freshet_label_to_serving_seconds_bucket{le="+Inf",model="a"} 10\n'
    )
    scraped = parse(text, "a")
    assert scraped.updates == 7
    assert scraped.freshness_s.p50 == pytest.approx(0.05)
    assert parse(text, "c").freshness_s.p50 is None


def test_serve_refuses_a_setting_that_cannot_be():
    result = run("serve", "--publish-labels", "0")
    assert result.exit_code == 2
    assert "publish_labels" in result.stderr
    assert "Traceback" not in result.output


def test_help_names_every_key_of_a_models_spec():
    assert SPEC_KEYS.split(", ") == [field.name for field in fields(ModelSpec)]
