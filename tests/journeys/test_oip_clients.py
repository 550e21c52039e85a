"""Unmodified clients of the Open Inference Protocol are answered as Streams.Open answers the same ticks."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

import freshet
from service.programs.backtest.child import ServerChild
from tests.conftest import ROOT
from tests.journeys import clients
from tests.journeys.raw import DEADLINE_S, RawStream
from tests.journeys.unmodified import CLIENTS

pytestmark = pytest.mark.long
ROWS = np.cumsum(np.random.default_rng(11).standard_normal((3, 20, 2)), axis=1).astype(np.float32)
IDS: list[Any] = [7, 2**40, "pump-7"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def model(server: ServerChild) -> AsyncIterator[str]:
    async with freshet.connect(server.grpc) as client:
        await client.create_model("plain", ["a", "b"], hidden=8, head_init=0.3, learn=False)
        await client.create_model("taught", ["a", "b"], task="regress", targets=["a"], hidden=4)
        yield "plain"


async def run(*command: str, given: str = "", environment: dict[str, str] | None = None) -> str:
    """Run a command, its variables beside those of this process; return what it printed."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'client'}"} | (environment or {})
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT, env=environment
    )
    async with asyncio.timeout(3 * DEADLINE_S):
        said, errors = await process.communicate(given.encode())
    assert process.returncode == 0, said.decode() + errors.decode()
    return said.decode()


@pytest.mark.parametrize("kind", CLIENTS)
async def test_a_client_hears_what_open_answers_and_shows_the_error(server, channel, model, kind):
    ours = os.environ.get("TRITONCLIENT_PYTHON", sys.executable)
    python = clients.kserve_python() if kind.startswith("kserve") else ours
    address = server.http if "http" in kind or "rest" in kind else server.grpc
    sequences = [{"id": id, "rows": rows.tolist()} for id, rows in zip(IDS, ROWS, strict=True)]
    story = {"address": address, "model": model, "sequences": sequences}

    said = await run(python, "-m", "tests.journeys.unmodified", kind, given=json.dumps(story))
    heard = json.loads(said)

    for rows, y, seq in zip(ROWS, heard["y"], heard["seq"], strict=True):
        async with RawStream(channel, model, f"twin {kind} {rows[0, 0]}") as call:
            twin = [list((await call.tick(i + 1, row.tolist())).forecast.y) for i, row in enumerate(rows)]
        assert y == twin
        assert seq == list(range(seq[0], seq[0] + len(rows)))
    status, message = heard["error"]
    assert status in ("StatusCode.NOT_FOUND", "404", "None")
    assert "Request for unknown model: 'nobody' is not found" in message


@pytest.mark.parametrize(
    ("first", "how"),
    [(1_000_000, ["grpc"]), (2_000_000, ["grpc", "--streaming", "--async"]), (3_000_000, ["http"])],
    ids=["grpc", "stream", "http"],
)
@pytest.mark.parametrize(("name", "width"), [("plain", 0), ("taught", 1)])
async def test_perf_analyzer_measures_sequences(server, model, tmp_path: Path, first, how, name, width):
    """first: of the ids of its sequences, each of which is a stream afterwards."""
    ticks = [{"x": {"content": row.tolist(), "shape": [2]}} for row in ROWS[0]]
    if width:
        ticks = [tick | {"y": {"content": [0.5], "shape": [1]}} for tick in ticks]
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"data": [ticks, ticks]}))
    program, environment = clients.perf_analyzer()

    said = await run(
        program, "-m", name, "-u", server.http if "http" in how else server.grpc, "-i", *how,
        "--concurrency-range", "2", "--sequence-id-range", f"{first}:{first + 999_999}",
        "--sequence-length", "10", "--sequence-length-variation", "0", "--input-data", str(data),
        "--measurement-mode", "count_windows", "--measurement-request-count", "50", "-s", "999", "--max-trials", "20",
        environment=environment,
    )  # fmt: skip

    assert "Throughput:" in said, said
    assert "Inference count:" in said, said
    async with freshet.connect(server.grpc) as client:
        kept = [stream async for stream in client.list_streams(name)]
    lengths = [
        one.last_seq for one in kept if one.stream.isdigit() and int(one.stream) in range(first, first + 999_999)
    ]
    assert lengths.count(10) >= 5
    assert max(lengths) == 10, "a tick of one sequence was taken for another's"
    assert len(lengths) - lengths.count(10) <= 2, "only the sequences under way at the end are shorter"


def test_clients_are_installed_once_and_again_when_their_lock_changes(tmp_path, capfd):
    lock, folder = tmp_path / "clients.lock", tmp_path / "clients"
    lock.write_text("")
    assert [clients.install(folder, lock), clients.install(folder, lock)] == [0, 0]
    assert (folder / "bin" / "python").exists()
    assert capfd.readouterr().out.count(f"installing clients of other servers in {folder}") == 1

    lock.write_text("# nothing more\n")
    assert clients.install(folder, lock) == 0
    assert f"installing clients of other servers in {folder}" in capfd.readouterr().out


def test_clients_that_could_not_be_installed_are_tried_again(tmp_path, capfd):
    lock = tmp_path / "clients.lock"
    lock.write_text("numpy\n")  # without a version and hashes
    for _ in range(2):
        assert clients.install(tmp_path / "clients", lock) != 0
        assert "are skipped, or fail if CI is set" in capfd.readouterr().out
