"""Columns whose changes float32 would lose: read less an offset, said, and scored by what the file has."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.programs.backtest.command import backtest
from service.programs.backtest.plan import Plan, make_plan
from service.programs.offline.plan import make_offline_plan
from service.programs.offline.run import train
from service.programs.tables.options import Options

ROWS = 300
STEPS = np.random.default_rng(3).integers(0, 4, ROWS).cumsum()
WAVE = 0.1 * np.sin(np.arange(ROWS) / 3)
QUICK: dict[str, Any] = {"hidden": 4, "window": 16, "interval": 0.0}


def write(folder: Path, **columns: Any) -> Path:
    path = folder / "file.csv"
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    path.write_text("\n".join([",".join(columns), *(",".join(map(repr, row)) for row in rows)]) + "\n")
    return path


def errors(plan: Plan) -> dict[str, float]:
    report = backtest(plan)
    return {name: getattr(report, name).mse for name in ("freshet", "persistence", "rls")}


def test_a_counter_and_a_high_level_are_scored_as_the_same_changes_at_zero(tmp_path):
    high = make_plan(write(tmp_path, count=1e8 + STEPS, level=1e9 + WAVE, small=WAVE), model=QUICK)
    assert high.series.offset is not None
    assert high.series.offset.tolist() == [1e8, 1e9, 0]
    described = high.describe()
    assert "read as " in described
    assert "count less 100000000" in described
    assert "level less 1000000000" in described
    assert "constant" not in described
    truth = (1e9 + WAVE) - 1e9  # as float64 has it
    low = make_plan(write(tmp_path, count=1.0 * STEPS, level=truth, small=WAVE), model=QUICK)
    assert low.series.exact is None
    np.testing.assert_array_equal(high.series.x, low.series.x)
    for name, mse in errors(low).items():
        assert errors(high)[name] == pytest.approx(mse, rel=1e-4), name


def test_forecasts_are_written_in_the_units_of_the_file(tmp_path):
    out = tmp_path / "out.csv"
    plan = make_plan(write(tmp_path, count=1e8 + STEPS, small=np.round(WAVE, 3)), model=QUICK)
    backtest(plan, forecasts=out)
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["truth_count"]) for row in rows] == (1e8 + STEPS)[-len(rows) :].tolist()
    assert [float(row["truth_small"]) for row in rows] == np.round(WAVE, 3)[-len(rows) :].tolist()
    assert max(abs(float(row["forecast_count"]) - float(row["truth_count"])) for row in rows) < 100
    assert all(len(row["truth_small"]) < 8 for row in rows)


def test_each_entity_has_an_offset_of_its_own(tmp_path):
    ids = np.repeat([1, 2], ROWS)
    path = write(tmp_path, id=ids, count=np.concatenate([1e8 + STEPS, 3e8 + STEPS]))
    plan = make_plan(path, options=Options(id="id"), model=QUICK)
    assert [series.offset.tolist() for series in plan.entities if series.offset is not None] == [[1e8], [3e8]]
    assert "count less an offset for each entity, first 100000000" in plan.how
    backtest(plan)


@pytest.mark.parametrize("missing", [True, False])
def test_a_training_sees_the_changes_of_a_high_level(tmp_path, missing):
    level, keys = 1e9 + WAVE, QUICK | ({"missing": "hold"} if missing else {})
    low = level - 1e9
    if missing:
        level, low = level.copy(), low.copy()
        level[5:9] = low[5:9] = np.nan
    trained = [train(make_offline_plan(write(tmp_path, level=values), model=keys, epochs=2)) for values in (level, low)]
    assert "level less 1000000000" in trained[0].plan.plan.how
    assert trained[0].best.loss == pytest.approx(trained[1].best.loss, rel=1e-5)
    assert trained[0].baselines == pytest.approx(trained[1].baselines, rel=1e-3)


def test_what_no_offset_keeps_is_said_and_judged_by_the_file(tmp_path):
    jump = np.concatenate([WAVE[:150], 1e9 + WAVE[150:]])
    plan = make_plan(write(tmp_path, level=jump), model=QUICK)
    assert plan.series.offset is None
    np.testing.assert_array_equal(plan.series.values[:, 0], jump)
    assert "changes of level are lost in float32: give differences" in plan.describe()


def test_without_a_scaler_nothing_is_subtracted_and_the_loss_is_said(tmp_path):
    plan = make_plan(write(tmp_path, count=1e8 + STEPS), model=QUICK | {"scaler": "none"})
    assert plan.series.offset is None
    assert "changes of count are lost in float32" in plan.how


@pytest.mark.parametrize(
    "values",
    [np.full(ROWS, 1e9), 0.1 + 0.2 + 2.0**-54 * (np.arange(ROWS) % 3), WAVE, 20000 + np.round(WAVE, 2), 1.0 * STEPS],
    ids=["constant", "noise", "wave", "hundredths", "counter"],
)
def test_columns_that_float32_keeps_are_read_as_ever(tmp_path, values):
    plan = make_plan(write(tmp_path, x=values), model=QUICK)
    assert (plan.series.exact, plan.series.offset) == (None, None)
    assert plan.series.values is plan.series.x
    assert "less" not in plan.how
