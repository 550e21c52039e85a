"""The benchmarks of the core run, and measure what they say. PyTorch and JAX are not needed."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from asyncio.subprocess import PIPE

import numpy as np
import pytest

from bench._costs import between, threads, traced
from bench._opening import code_lines, lines
from bench._steps import Point, Stack, numpy_step, products_only, recorded
from model.cells import CELLS
from tests.conftest import ROOT

TINY = Point(2, 3, 2, 4)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_benchmarks_step_trains(name, layers):
    step = numpy_step(name, TINY, layers)
    first = step()
    for _ in range(300):
        last = step()
    assert last < 0.9 * first


@pytest.mark.parametrize("name", CELLS)
def test_the_bare_products_are_those_of_a_gradient_and_do_not_change_numpy(name):
    plain = np.dot, np.matmul
    stack = Stack(name, TINY, 1)
    stack.gradient()
    grad = stack.grad.copy()
    calls = recorded(stack.gradient)

    assert (np.dot, np.matmul) == plain
    assert calls, "a cell without a product would be measured against nothing"
    np.testing.assert_array_equal(stack.grad, grad)
    assert products_only(name, TINY, 2)() == 0.0


def test_the_benchmark_of_an_update_shares_out_all_of_its_time(tmp_path):
    out = tmp_path / "update.json"
    command = [sys.executable, "-m", "bench.update", "--streams", "1", "--updates", "10", "--json", out]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    shares: dict[str, dict[str, float]] = {}
    for row in json.loads(out.read_text())["rows"]:
        if row["unit"] == "share":
            shares.setdefault(row["case"], {})[row["metric"]] = row["value"]
    assert len(shares) == 2  # with the mixture and without
    for parts in shares.values():
        assert sum(parts.values()) == pytest.approx(1)
        assert 0 < parts["everything else"] < 0.5, "a part has lost its function"


def test_the_benchmark_of_the_core_prints_its_ratios(tmp_path):
    out = tmp_path / "core.json"
    command = [sys.executable, "-m", "bench.core", "--points", "1,16,8,32", "--only", "rnn", "--layers", "1"]
    done = subprocess.run([*command, "--rounds", "1", "--json", out], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode in (0, 1), done.stderr  # 1: PyTorch is installed, and this machine misses a bound
    metrics = {row["metric"] for row in json.loads(out.read_text())["rows"]}
    assert {"step / products only", "step / lstm's", "step"} <= metrics


def test_the_benchmark_of_a_cluster_counts_lines_of_code_alone():
    source = '"""A docstring\nof two lines."""\n\nx = [  # a comment\n    1,\n]\n\n\ndef f():\n    """Another."""\n'
    assert code_lines(source + '    return """no\ndocstring"""  # two lines of code\n') == 6
    [*parts, together] = lines()
    assert together.value == sum(part.value for part in parts) > 0


@pytest.mark.long
def test_the_benchmark_of_a_cluster_kills_an_owner_and_waits_for_every_stream(tmp_path):
    out = tmp_path / "cluster.json"
    command = [sys.executable, "-m", "bench.cluster", "--only", "gap", "--backends", "folder"]
    done = subprocess.run([*command, "--kills", "1", "--json", out], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode in (0, 1), done.stderr  # 1: this machine misses a bound
    rows = {(row["case"], row["metric"]): row["value"] for row in json.loads(out.read_text())["rows"]}
    assert rows["gap, folder, tail 2 s", "max"] > 0
    assert rows["gap, folder, tail 2 s", "entries replayed, max"] > 0


@pytest.mark.long
def test_the_benchmark_of_slow_streams_prints_what_a_tick_costs(tmp_path):
    out = tmp_path / "fleet.json"
    command = [sys.executable, "-m", "bench.fleet_slow", "--streams", "3", "--channels", "2", "--seconds", "1"]
    command += ["--rounds", "1", "--against", str(ROOT), "--json", str(out)]  # this checkout also plays the other one
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    rows = {row["metric"]: row["value"] for row in json.loads(out.read_text())["rows"]}
    ours, echo, other = (rows[f"{who} per tick"] for who in ("server CPU", "bare echo CPU", "other checkout's CPU"))
    assert min(ours, echo, other) > 0
    assert (rows["server over echo"], rows["server over other checkout"]) == pytest.approx((ours / echo, ours / other))


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
async def test_system_calls_of_a_process_are_counted_while_it_is_traced():
    waiting = [sys.executable, "-c", "import os, sys\nfor line in sys.stdin: os.write(1, b'x')"]
    process = await asyncio.create_subprocess_exec(*waiting, stdin=PIPE, stdout=PIPE)
    assert process.stdin
    assert process.stdout
    async with traced(process.pid) as calls:
        for _ in range(5):
            process.stdin.write(b"\n")
            await process.stdout.readexactly(1)
    process.stdin.close()
    await process.wait()
    if not calls:
        pytest.skip("strace may not attach here")
    assert calls["write"] == 5
    # Of the pipe; strace may miss the one under way when it attaches, and see modules that are read before it.
    assert calls["read"] >= 4
    assert between(threads(os.getpid()), threads(os.getpid()))[os.getpid()].cpu_s >= 0
