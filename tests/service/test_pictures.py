"""Pictures of a backtest show the numbers of its report."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.programs.backtest.command import backtest
from service.programs.backtest.plan import make_plan
from service.programs.pictures.replayed import Replayed
from tests.conftest import ROOT

MODEL = {"hidden": 4}
KEYS = [{}, {"horizon": 3}, {"intervals": [0.8, 0.9]}, {"horizon": 3, "intervals": [0.5]}]


def series(folder: Path, rows: int = 300, header: str = "a,b") -> Path:
    file = folder / "series.csv"
    t = np.arange(rows)
    cells = [[f"{np.sin(i / 5):.4f}", f"{np.cos(i / 9) * 50:.3f}"] for i in t]
    file.write_text(header + "\n" + "\n".join(map(",".join, cells)) + "\n")
    return file


@pytest.mark.parametrize("keys", KEYS, ids=str)
def test_the_sums_in_the_picture_are_the_reports(tmp_path, keys):
    plan = make_plan(series(tmp_path), model=MODEL | keys)
    watch = Replayed(plan)
    report = backtest(plan, watch=watch)
    scorer = plan.scorer()
    pairs = 2 * sum(len(scorer.steps(row)) for row in range(plan.rows))
    assert set(watch.squared) == set(report.errors)
    for name, errors in report.errors.items():
        np.testing.assert_allclose(watch.sums(name)[-1] / pairs, errors.mse, rtol=1e-9, err_msg=name)
    for n, level in enumerate(report.intervals):
        np.testing.assert_allclose(watch.inside[n].sum() / watch.known.sum(), level.inside, rtol=1e-9)
    figure = watch.figure(report)
    assert [row[1] for row in figure.tables[0].rows] == [f"{e.mse:.4f}" for e in report.errors.values()]
    drawn = {line.name: line.y[-1] for panel in figure.panels if "squared" in panel.title for line in panel.lines}
    assert drawn == {name: watch.sums(name)[-1] for name in report.errors}


def test_a_watch_changes_no_number_of_the_report(tmp_path):
    plan = make_plan(series(tmp_path), model=MODEL)
    alone, watched = (backtest(plan, watch=watch).to_mapping() for watch in (None, Replayed(plan)))
    assert {**alone, "wall_s": 0} == {**watched, "wall_s": 0}


def test_the_command_writes_a_picture_with_the_columns_name(tmp_path):
    file = series(tmp_path, header="<b>rides</b>,b")
    out = tmp_path / "out.svg"
    words = ["backtest", file, "--plot", out, "--set", "hidden=4", "--json", tmp_path / "out.json"]
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", *map(str, words)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    mse = json.loads((tmp_path / "out.json").read_text())["freshet"]["mse"]
    assert "&lt;b&gt;rides&lt;/b&gt;" in text
    assert "<b>" not in text
    assert f"freshet {mse:.4g}" in text


def test_a_wrong_kind_of_file_is_refused_before_anything_is_replayed(tmp_path):
    words = ["backtest", series(tmp_path), "--plot", tmp_path / "out.pdf"]
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", *map(str, words)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("freshet: plot = ")
    assert ".html, .svg or .png" in done.stderr
    assert "rows" not in done.stderr
