"""The suggestion of a season: one line, where none is known and one is clear, and nothing changes by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from service.cli.main import app
from service.programs.backtest.plan import make_plan

ROWS = 800


def write(path: Path, values: np.ndarray, seconds: float | None) -> Path:
    """Rows of one column; with `seconds`, of event times so far apart."""
    lines = ["time,load"] if seconds else ["load"]
    for n, value in enumerate(values):
        time = np.datetime64("2024-01-01") + np.timedelta64(round(1000 * n * (seconds or 0)), "ms")
        lines.append(f"{time},{value}" if seconds else f"{value}")
    path.write_text("\n".join(lines) + "\n")
    return path


def cycles(lag: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.resize(rng.standard_normal(lag), ROWS) + 0.3 * rng.standard_normal(ROWS)


def described(file: Path, **keys: Any) -> list[str]:
    return [line for line in make_plan(file, model=keys).describe().splitlines() if "a period of" in line]


def test_a_period_is_suggested_where_neither_day_nor_week_is_a_season(tmp_path):
    file = write(tmp_path / "a.csv", cycles(45), 10.0)
    line = "a period of 45 rows shows in the first 800 rows: try"
    assert described(file, forecaster="network") == [f"{line} --set forecaster=mixture --set seasons=[450]"]
    assert described(file) == [f"{line} --set seasons=[450]"]
    assert make_plan(file).spec.seasons == ()
    asked = {"seasons": [450.0]}
    assert described(file, **asked) == []
    assert make_plan(file, model=asked).spec.seasons == (450.0,)


def test_without_event_times_the_remedy_is_their_column(tmp_path):
    file = write(tmp_path / "a.csv", cycles(45), None)
    remedy = "seasons need event times: name their column with --time"
    assert described(file) == [f"a period of 45 rows shows in the first 800 rows: {remedy}"]


@pytest.mark.parametrize(
    ("values", "seconds", "keys"),
    [
        (cycles(45), 3600.0, {}),
        (np.random.default_rng(1).standard_normal(ROWS), 10.0, {}),
        (np.random.default_rng(1).standard_normal(ROWS).cumsum(), 10.0, {}),
        (cycles(45), 10.0, {"seasons": [0.0]}),
    ],
    ids=["day and week are seasons", "noise", "walk", "no seasons wanted"],
)
def test_otherwise_nothing_is_suggested(tmp_path, values, seconds, keys):
    assert described(write(tmp_path / "a.csv", values, seconds), **keys) == []


def test_backtest_and_train_print_the_line_on_standard_error(tmp_path):
    file = write(tmp_path / "a.csv", cycles(45)[:300], 10.0)
    small = ["--set", "hidden=4", "--set", "learn_every=8"]
    for verb in (["backtest"], ["train", "--epochs", "1", "--out", str(tmp_path / "model")]):
        result = CliRunner().invoke(app, [verb[0], str(file), *verb[1:], *small])
        assert result.exit_code == 0, result.output
        assert "try --set seasons=[450]" in result.stderr
        assert "a period of" not in result.stdout
