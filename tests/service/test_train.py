"""`freshet train`: what it learns, writes, tells and refuses."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from model.network import Network
from model.offline.recorded import prepare, scale_labels
from model.offline.training import score
from model.spec import ModelSpec
from service.cli.main import app
from service.console.files import load_weights, spec_toml
from service.engine.export import read_weights
from service.programs.backtest.plan import make_plan
from tests.service.test_backtest import waves, write

TAXI = Path(str(resources.files("service.cli") / "data" / "nyc_taxi.csv"))
FILES = {"model.toml", "weights.safetensors", "model.onnx", "history.json", "loss.svg"}
DEADLINE_S = 240  # a command on a machine that does ten things at once took more than 60 s to end


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def of_the_network(held_out: dict[str, float]) -> float:
    """The held-out loss that chooses the epoch."""
    return held_out.get("network", held_out["freshet"])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def taxi(tmp_path_factory) -> tuple[Path, str]:
    """A training on the first 1,000 rows of the shipped series: its folder and what was printed."""
    folder = tmp_path_factory.mktemp("taxi")
    result = run("train", TAXI, "--rows", 1000, "--set", "hidden=16", "--epochs", 12, "--out", folder / "model")
    assert result.exit_code == 0, result.output
    assert "held out beside: persistence 0." in result.stderr
    return folder / "model", result.output


@pytest.fixture
def file(tmp_path) -> Path:
    """200 rows of two noisy sines, an hour apart."""
    return write(tmp_path / "a.csv", waves(200, 2), ["a", "b"])


def test_the_folder_holds_the_spec_the_weights_the_graph_the_losses_and_a_picture(taxi):
    folder, printed = taxi
    assert contents(folder).keys() == FILES
    assert f"written       {folder}" in printed
    assert f"freshet models create NAME --from {folder}" in printed
    ElementTree.parse(folder / "loss.svg")
    history = json.loads((folder / "history.json").read_text())
    assert (history["rows"], history["train_rows"], history["held_out_rows"], history["seed"]) == (1000, 800, 200, 0)
    assert [epoch["epoch"] for epoch in history["epochs"]] == list(range(len(history["epochs"])))
    best = history["epochs"][history["best_epoch"]]
    assert best["held_out"] == of_the_network(history["held_out"]) == min(e["held_out"] for e in history["epochs"])
    assert history["epochs"][0]["train"] is None
    assert history["epochs"][0]["held_out"] == pytest.approx(history["held_out"]["persistence"], rel=1e-6)
    assert history["held_out"]["freshet"] < 0.5 * history["held_out"]["persistence"]
    others = ["persistence", "rls", "rls_seasonal", "naive_day", "naive_week"]
    assert [name for name in history["held_out"] if name != "network"] == ["freshet", *others]
    assert all(f"{name} {history['held_out'][name]:.4f}" in printed for name in others)


def test_the_written_spec_is_complete_and_reads_back_as_the_same(taxi):
    folder, _ = taxi
    keys = tomllib.loads((folder / "model.toml").read_text())
    spec = ModelSpec.from_mapping(keys)
    assert spec.to_mapping() == keys
    assert (spec.channels, spec.hidden, spec.interval, spec.learning_rate) == (("value",), 16, 1800.0, 3e-3)
    odd = ModelSpec(channels=('quote " and \\', "ä€𝄞"), interval=1e-5, max_gap=3e9, freeze=("head",))
    assert ModelSpec.from_mapping(tomllib.loads(spec_toml(odd))) == odd


def test_the_written_weights_lose_on_the_held_out_rows_what_was_reported(taxi):
    folder, _ = taxi
    plan = make_plan(TAXI, model=tomllib.loads((folder / "model.toml").read_text()), rows=1000)
    network = Network(plan.spec)
    weights = network.weights(read_weights(network, load_weights(folder, plan.spec)))
    recorded = scale_labels(network, weights, prepare(network, plan.series.x, plan.times), 800)
    reported = of_the_network(json.loads((folder / "history.json").read_text())["held_out"])
    assert score(network, weights, recorded, 800, 1000) == reported


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path, file):
    made = []
    for n, seed in enumerate((3, 3, 4)):
        assert run("train", file, "--seed", seed, "--epochs", 2, "--out", tmp_path / str(n)).exit_code == 0
        made.append(contents(tmp_path / str(n)))
    assert all(made[0][name] == made[1][name] for name in ("weights.safetensors", "model.onnx", "model.toml"))
    assert made[0]["weights.safetensors"] != made[2]["weights.safetensors"]


def test_a_backtest_that_begins_with_the_weights_is_better_on_the_rows_that_follow(taxi, tmp_path):
    folder, _ = taxi
    lines = TAXI.read_text().splitlines(keepends=True)
    later = tmp_path / "later.csv"
    later.write_text("".join([lines[0], *lines[1001:1301]]))
    reports = {}
    for name, arguments in {"cold": ("--set", "hidden=16"), "warm": ("--weights", folder)}.items():
        result = run("backtest", later, "--score-from", 1, *arguments, "--json", tmp_path / "out.json")
        assert result.exit_code == 0, result.output
        reports[name] = json.loads((tmp_path / "out.json").read_text())
    assert reports["warm"]["persistence"] == reports["cold"]["persistence"]
    assert reports["warm"]["freshet"]["mse"] < 0.9 * reports["cold"]["freshet"]["mse"]


def test_a_whole_sequence_training_makes_one_update_per_epoch(tmp_path, file):
    arguments = ("--mode", "whole", "--segments", 3, "--epochs", 4, "--out", tmp_path / "m", "--json", tmp_path / "j")
    assert run("train", file, *arguments).exit_code == 0
    history = json.loads((tmp_path / "j").read_text())
    assert [epoch["updates"] for epoch in history["epochs"]] == [0, 1, 2, 3, 4]
    assert (history["mode"], history["segments"], history["chunk"]) == ("whole", 3, None)


def test_without_held_out_rows_all_epochs_are_run_and_nothing_is_claimed(tmp_path, file):
    result = run("train", file, "--held-out", 0, "--epochs", 3, "--patience", 1, "--out", tmp_path / "m")
    assert result.exit_code == 0, result.output
    history = json.loads((tmp_path / "m" / "history.json").read_text())
    assert (history["best_epoch"], history["held_out_rows"]) == (3, 0)
    seasonal = {"rls_seasonal": None, "naive_day": None, "naive_week": None}
    assert history["held_out"] | {"network": None} == {
        "freshet": None, "network": None, "persistence": None, "rls": None, **seasonal,
    }  # fmt: skip
    assert "nothing held out" in result.stderr


# --- ends before the last epoch


def test_ctrl_c_keeps_the_best_weights_so_far_and_says_so(tmp_path):
    out = tmp_path / "model"
    command = [sys.executable, "-m", "service.cli", "train", TAXI, "--rows", "3000", "--set", "hidden=16",
               "--epochs", "100000", "--patience", "100000", "--out", out]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def as_in_the_foreground() -> None:  # a shell's background jobs, and all that they start, ignore Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        preexec_fn=as_in_the_foreground,
    ) as child:  # fmt: skip
        assert child.stderr is not None
        told = [next(line for line in child.stderr if line.startswith("epoch 3:"))]
        child.send_signal(signal.SIGINT)
        printed, errors = child.communicate(timeout=DEADLINE_S)
        told += errors.splitlines()
    history = json.loads((out / "history.json").read_text())
    assert child.returncode == 130, told
    assert told[-1] == f"freshet: interrupted; the weights of epoch {history['best_epoch']} are kept"
    assert history["stopped"] == "interrupted"
    assert f"written       {out}" in printed
    assert contents(out).keys() == FILES
    load_weights(out, ModelSpec.from_mapping(tomllib.loads((out / "model.toml").read_text())))


def test_on_a_terminal_the_epochs_are_one_line_that_names_the_best_so_far(tmp_path, file):
    command = [sys.executable, "-m", "service.cli", "train", file, "--epochs", "3", "--out", tmp_path / "m"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "COLUMNS": "80",
        "TERM": "xterm",
    }
    terminal, end = pty.openpty()
    with subprocess.Popen(command, stderr=end, stdout=subprocess.DEVNULL, env=environment) as child:
        os.close(end)
        shown = b""
        with contextlib.suppress(OSError):  # what a terminal answers when its other end is closed
            while more := os.read(terminal, 1 << 16):
                shown += more
        assert child.wait(DEADLINE_S) == 0
    os.close(terminal)
    plain = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert "held out beside: persistence 0." in plain
    last = plain.rpartition("epoch 3")[2]
    assert re.match(r": train \d+\.\d{4}, held out \d+\.\d{4}; best was [1-3] 0:00:\d\d", last), last


def test_an_interrupt_before_the_first_epoch_leaves_nothing_behind(tmp_path, file, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("service.programs.offline.run.prepare", interrupted)
    result = run("train", file, "--out", tmp_path / "m")
    assert result.exit_code == 130
    assert not (tmp_path / "m").exists()


RUNAWAY = ("--set", "optimizer=sgd", "--set", "clip=1e6", "--set", "scaler=none", "--mode", "whole", "--patience", 999)


def test_a_loss_that_runs_away_ends_with_a_remedy_and_keeps_the_best_weights(tmp_path):
    file = write(tmp_path / "a.csv", 1e12 * waves(200, 1), ["a"])
    # A negative rate climbs the loss; the clip bounds its steps, so that some epochs pass until float32 ends.
    uphill = ("--set", "learning_rate=-0.25", "--epochs", 900)
    result = run("train", file, *RUNAWAY, *uphill, "--out", tmp_path / "m")
    assert result.exit_code == 1, result.output
    last = result.stderr.splitlines()[-1]
    history = json.loads((tmp_path / "m" / "history.json").read_text())
    assert all(word in last for word in ("inf in epoch", "--learning-rate below 1", "are kept")), last
    assert last.startswith(f"freshet: {history['stopped']}")
    assert 2 <= len(history["epochs"]) < 900
    flat = read_weights(
        Network(ModelSpec.from_mapping(tomllib.loads((tmp_path / "m" / "model.toml").read_text()))),
        (tmp_path / "m" / "weights.safetensors").read_bytes(),
    )
    assert np.isfinite(flat).all()


def test_a_loss_that_runs_away_at_once_leaves_nothing_behind(tmp_path):
    file = write(tmp_path / "a.csv", 1e14 * waves(200, 1), ["a"])
    result = run("train", file, *RUNAWAY, "--learning-rate", 1, "--out", tmp_path / "m")
    assert result.exit_code == 1
    assert "nothing was written" in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "m").exists()


# --- gaps, constants, and what is refused


def gappy(tmp_path: Path) -> Path:
    """200 hourly rows of which 20 are missing in one place and 3 in another."""
    file = write(tmp_path / "a.csv", waves(223, 1), ["a"])
    lines = file.read_text().splitlines(keepends=True)
    del lines[151:154], lines[101:121]
    file.write_text("".join(lines))
    return file


def test_gaps_in_time_are_told_and_labels_across_them_void_where_max_gap_says_so(tmp_path):
    file = gappy(tmp_path)
    kept = run("train", file, "--epochs", 1, "--out", tmp_path / "kept")
    assert kept.exit_code == 0, kept.output
    told = "2 gaps in time, the longest 75600 s before row 100, where a row comes every 3600 s"
    assert f"{told}; labels across them count: --set max_gap=7200 would void them" in kept.stderr
    void = run("train", file, "--epochs", 1, "--set", "max_gap=18000", "--set", "horizon=2", "--out", tmp_path / "void")
    assert void.exit_code == 0, void.output
    assert f"{told}; max_gap = 18000 voids the labels across 1 of them" in void.stderr
    assert "voided        3 labels across gaps" in void.stdout  # 1 ahead from the row before, 2 ahead from two
    assert json.loads((tmp_path / "void" / "history.json").read_text())["voided_labels"] == 3


def test_where_missing_values_are_held_a_history_with_empty_cells_is_learned_beside_baselines(tmp_path):
    rows = waves(400, 2)
    rows[np.random.default_rng(0).random(rows.shape) < 0.15] = np.nan
    rows[:10, 1] = np.nan
    file = write(tmp_path / "a.csv", rows, ["a", "b"])
    hold = ("--set", "missing=hold", "--set", "hidden=8")
    result = run("train", file, *hold, "--epochs", 20, "--out", tmp_path / "m")
    assert result.exit_code == 0, result.output
    assert f"{int(np.isnan(rows).sum())} values are missing" in result.stderr
    held_out = json.loads((tmp_path / "m" / "history.json").read_text())["held_out"]
    assert 0 < held_out["freshet"] < 0.8 * held_out["persistence"]
    assert 0 < held_out["rls"] < held_out["persistence"]


@pytest.mark.parametrize("columns", ["all", "b"], ids=["one of two", "the only one"])
def test_a_constant_column_is_told_and_learned_without_harm(tmp_path, columns):
    rows = waves(200, 2)
    rows[:, 1] = 7
    file = write(tmp_path / "a.csv", rows, ["a", "b"])
    result = run("train", file, "--columns", columns, "--epochs", 2, "--out", tmp_path / "m")
    assert result.exit_code == 0, result.output
    assert "b is constant" in result.stderr
    assert np.isfinite(json.loads((tmp_path / "m" / "history.json").read_text())["held_out"]["freshet"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda lines: lines.__setitem__(5, "2024-01-01T04:00,1.0,"), ["row 4", "column b", "missing"]),
        (lambda lines: lines.__setitem__(5, "2024-01-01T04:00,off,1.0"), ["row 4", "column a", "off", "number"]),
        (lambda lines: lines.insert(6, lines[5]), ["row 5", "column date", "2024-01-01T04", "repeated times"]),
        (lambda lines: lines.insert(6, lines[2]), ["row 5", "column date", "2024-01-01T01", "sort the rows"]),
        (lambda lines: lines.clear(), ["rows = 0", "at least 2"]),
        (lambda lines: lines.__delitem__(slice(20, None)), ["rows = 19", "window 16", "more rows"]),
    ],
    ids=["missing value", "text cell", "repeated time", "unsorted", "empty file", "shorter than a window"],
)
def test_a_history_that_cannot_be_learned_from_is_refused_in_one_line(tmp_path, file, change, named):
    lines = file.read_text().splitlines()
    change(lines)
    file.write_text("".join(f"{line}\n" for line in lines))
    result = run("train", file, "--out", tmp_path / "m")
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert all(word in result.stderr for word in named), result.stderr
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--set", "hiden=8"), ["hiden = 8", "unknown key", "hidden"]),
        (("--set", "hidden=1e9"), ["hidden", "whole number"]),
        (("--set", "hidden=1000000"), ["hidden = 1000000", "1 to 1024"]),
        (("--set", "hidden=1024", "--set", "layers=8"), ["hidden = 1024", "parameters", "fewer units"]),
        (("--set", "learn=false"), ["learn = False", "never learns"]),
        (("--epochs", "0"), ["epochs = 0", "give 1 to"]),
        (("--patience", "0"), ["patience = 0", "give 1 to"]),
        (("--held-out", "1"), ["held_out = 1.0", "0 to 0.9"]),
        (("--held-out", "nan"), ["held_out = nan", "0 to 0.9"]),
        (("--held-out", "0.01", "--set", "horizon=2"), ["rows = 200", "held out", "more rows"]),
        (("--set", "max_gap=10"), ["labels = 0", "160 rows to learn from", "longer than max_gap"]),
        (("--rows", "201"), ["rows = 201", "2 to 200"]),
        (("--learning-rate", "0"), ["learning_rate = 0.0", "above 0"]),
        (("--learning-rate", "inf"), ["learning_rate = inf", "at most 1"]),
        (("--segments", "2"), ["segments = 2", "--mode whole"]),
        (("--mode", "whole", "--segments", "50"), ["segments = 50", "1 to 9"]),
        (("--config", "nowhere.toml"), ["nowhere.toml"]),
        (("--json", "no/such/folder.json"), ["json", "no/such/folder.json"]),
        (("--url", "localhost:1"), ["url = localhost:1", "--create"]),
        (("--create", "taxi"), ["create = taxi", "--url"]),
        (("--out", "no/such/folder"), ["out = no/such/folder", "one that exists"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_argument_that_cannot_be_is_refused_by_name(tmp_path, file, arguments, named):
    out = () if "--out" in arguments else ("--out", tmp_path / "m")
    result = run("train", file, *arguments, *out)
    assert result.exit_code == 2, result.output
    assert all(word in result.stderr for word in named), result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "m").exists()


def test_a_whole_sequence_that_does_not_fit_the_memory_is_refused_before_it_is_begun(tmp_path):
    file = tmp_path / "long.csv"
    file.write_text("a\n" + "1\n2\n" * 160_000)
    result = run("train", file, "--mode", "whole", "--out", tmp_path / "m")
    assert result.exit_code == 2
    assert all(word in result.stderr for word in ("mode = whole", "256000 rows", "--mode truncated"))


def test_what_a_folder_holds_is_kept_unless_its_replacement_is_forced(tmp_path, file):
    out = tmp_path / "m"
    out.mkdir()
    assert run("train", file, "--epochs", 1, "--out", out).exit_code == 0  # an empty folder loses nothing
    (out / "notes.txt").write_text("mine")
    before = contents(out)
    refused = run("train", file, "--epochs", 1, "--seed", 1, "--out", out)
    assert refused.exit_code == 2
    assert all(word in refused.stderr for word in (f"out = {out}", "exists", "--force"))
    assert contents(out) == before
    assert run("train", file, "--epochs", 1, "--seed", 1, "--out", out, "--force").exit_code == 0
    after = contents(out)
    assert after.keys() == before.keys()
    assert after["weights.safetensors"] != before["weights.safetensors"]
    assert after["notes.txt"] == b"mine"


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path, file):
    for out, named in ((file, "is a file"), (file / "below", "in one that exists")):
        result = run("train", file, "--out", out)
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
        assert named in result.stderr


@pytest.mark.parametrize("given", ["a folder without", "not weights", "other shapes"])
def test_weights_that_are_not_those_of_the_spec_are_refused(taxi, tmp_path, file, given):
    made = {"a folder without": tmp_path, "not weights": file, "other shapes": taxi[0] / "weights.safetensors"}[given]
    result = run("backtest", file, "--columns", "a", "--weights", made)
    assert result.exit_code == 2
    assert f"weights = {made}"[:60] in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_help_is_told_without_starting_numpy_or_grpc():
    check = "import sys, service.cli.main; print(sorted({'numpy', 'grpc', 'onnx'} & sys.modules.keys()))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    asked = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, env=environment)
    assert asked.stdout == "[]\n"
    assert "--held-out" in run("train", "--help").output
