"""The demo as a newcomer runs it, with a real server and client, and with one of the processes killed half-way."""

import asyncio
import json
import math
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.journeys import preloaded

ROWS = 600


@asynccontextmanager
async def demo(*arguments: object) -> AsyncIterator[asyncio.subprocess.Process]:
    """A running demo; stopped in order at the end if it still runs."""
    process = await preloaded.command("demo", *arguments)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def told(stream: asyncio.StreamReader | None, text: str) -> str:
    """Read until a line has this text; returns that line."""
    assert stream is not None
    read = []
    async for line in stream:
        read.append(line.decode())
        if text in read[-1]:
            return read[-1]
    raise AssertionError(f"never said {text!r} but {''.join(read)}")


def child_of(parent: int, word: str) -> int:
    """The process id of the parent's child whose command line has this word."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ppid = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes().decode()
        except OSError:  # it has ended meanwhile
            continue
        if ppid == parent and word in command:
            return int(folder.name)
    raise AssertionError(f"process {parent} has no child with {word!r} on its command line")


def server_of(demo_pid: int) -> int:
    return child_of(demo_pid, "service.cli")


def trainer_of(demo_pid: int) -> int:
    return child_of(server_of(demo_pid), "service.trainer.process")


def check(report: dict[str, Any], stdout: str) -> None:
    """What a demo of ROWS rows must have found, whatever happened to its processes."""
    assert (report["rows"], report["scored"]) == (ROWS, 450)
    assert report["updates"] <= ROWS - 2  # each label learned at most once; a server counts its own alone
    assert report["staleness"]["max"] <= 32
    assert report["versions"] > 0
    assert report["freshet"]["mse"] < 0.8 * report["persistence"]["mse"]
    assert all(math.isfinite(value) for kind in ("latency_ms", "rls") for value in report[kind].values())
    assert list(report["forecasters"]) == [
        "freshet", "persistence", "rls", "rls_seasonal", "naive_day", "naive_week",
    ]  # fmt: skip
    assert "the best seasonal baseline, rls_seasonal." in stdout
    for word in ("freshet", "persistence", "rls", "versions", "staleness", "latency", "/metrics", "freshet backtest"):
        assert word in stdout


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes in /proc")


async def test_the_demo_ends_with_what_a_newcomer_wants_to_see(tmp_path):
    async with demo("--rows", ROWS, "--json", tmp_path / "out.json") as process:
        stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    report = json.loads((tmp_path / "out.json").read_text())
    check(report, stdout.decode())
    assert report["updates"] == ROWS - 2
    first = stdout.decode().splitlines()[0]
    assert re.fullmatch(r"watch it learn: http://127\.0\.0\.1:\d+/", first), first
    assert "drift" not in report


# Its parts without the long tests: tests/service/test_demo_parts.py, and that a drift is noticed: test_drift.py there.
@pytest.mark.long
async def test_many_streams_change_half_way_and_the_model_learns_again(tmp_path):
    arguments = ("--streams", 24, "--rows", 336, "--inject-drift", "--pace", 0, "--json", tmp_path / "out.json")
    async with demo(*arguments) as process:
        stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["rows"] == 24 * 336
    drift = report["drift"]
    assert drift["at"] == 168
    assert drift["drifts"], "no drift was reported"
    assert drift["peak"] > 2 * drift["before"], "the change did not raise the error"
    assert drift["settled"] < 0.7 * drift["peak"], "the error did not come down"
    assert drift["settled"] < 0.7 * drift["frozen"], "a model that does not learn is as good"
    assert "the server reported a drift" in stdout.decode()
    assert "24 zones of a city" in stdout.decode()


@pytest.mark.parametrize(("option", "value"), [("--streams", 0), ("--pace", -1), ("--streams", 1000)])
async def test_the_demo_refuses_a_wish_that_it_cannot_fulfil_before_a_server_starts(option, value):
    async with demo(option, value) as process:
        stdout, stderr = await process.communicate()
    assert process.returncode == 2
    assert stderr.decode().startswith(f"freshet: {option[2:]} = ")
    assert not stdout


# Without the long tests, streams resume through kills of both in test_server_crash.py and test_trainer_crash.py.
@needs_proc
@pytest.mark.long
@pytest.mark.parametrize("victim", [server_of, trainer_of], ids=["the server", "the trainer"])
async def test_the_demo_survives_a_kill_half_way(tmp_path, victim: Callable[[int], int]):
    async with demo("--rows", ROWS, "--json", tmp_path / "out.json") as process:
        await told(process.stderr, f"streaming: row {ROWS // 2} ")
        os.kill(victim(process.pid), signal.SIGKILL)
        stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    report = json.loads((tmp_path / "out.json").read_text())
    check(report, stdout.decode())
    if victim is trainer_of:
        assert report["updates"] == ROWS - 2
    else:
        assert b"ended by signal 9; starting it again" in stderr
        assert b"with 0 answers lost" in stdout


async def test_the_demo_refuses_more_rows_than_there_are():
    async with demo("--rows", 1_000_000) as process:
        _, stderr = await process.communicate()
    assert process.returncode == 2
    assert stderr.decode().startswith("freshet: rows = 1000000: the series has 10320 rows")


@needs_proc
async def test_a_demo_that_keeps_serving_ends_with_its_server_when_told_to():
    async with demo("--rows", 100, "--keep-serving") as process:
        line = await told(process.stdout, "Still serving")
        found = re.search(r"data in (\S+)\. Ctrl-C", line)
        assert found is not None, line
        data = Path(found[1])
        server = server_of(process.pid)
        process.send_signal(signal.SIGINT)
        await process.wait()
    assert not Path(f"/proc/{server}").exists()
    assert data.is_dir(), "what was served is kept"
    for path in sorted(data.parent.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    data.parent.rmdir()
