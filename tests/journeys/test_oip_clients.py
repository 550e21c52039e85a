"""Unmodified clients of the Open Inference Protocol are answered as Streams.Open answers the same ticks."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
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
from tests.journeys.raw import DEADLINE_S, RawStream
from tests.journeys.unmodified import CLIENTS

pytestmark = pytest.mark.long
ROWS = np.cumsum(np.random.default_rng(11).standard_normal((3, 20, 2)), axis=1).astype(np.float32)
IDS: list[Any] = [7, 2**40, "pump-7"]
PERF_ANALYZER = shutil.which("perf_analyzer")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def model(server: ServerChild) -> AsyncIterator[str]:
    async with freshet.connect(server.grpc) as client:
        await client.create_model("plain", ["a", "b"], hidden=8, head_init=0.3, learn=False)
        await client.create_model("taught", ["a", "b"], task="regress", targets=["a"], hidden=4)
        yield "plain"


async def run(*command: str, given: str = "") -> str:
    """Run a command; return what it printed."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'client'}"}
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
    library = "kserve" if kind.startswith("kserve") else "tritonclient"
    python = os.environ.get(f"{library.upper()}_PYTHON")  # an interpreter that has it, with all that it needs
    if python is None and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed, and {library.upper()}_PYTHON is not set")
    address = server.http if "http" in kind or "rest" in kind else server.grpc
    sequences = [{"id": id, "rows": rows.tolist()} for id, rows in zip(IDS, ROWS, strict=True)]
    story = {"address": address, "model": model, "sequences": sequences}

    said = await run(python or sys.executable, "-m", "tests.journeys.unmodified", kind, given=json.dumps(story))
    heard = json.loads(said)

    for rows, y, seq in zip(ROWS, heard["y"], heard["seq"], strict=True):
        async with RawStream(channel, model, f"twin {kind} {rows[0, 0]}") as call:
            twin = [list((await call.tick(i + 1, row.tolist())).forecast.y) for i, row in enumerate(rows)]
        assert y == twin
        assert seq == list(range(seq[0], seq[0] + len(rows)))
    status, message = heard["error"]
    assert status in ("StatusCode.NOT_FOUND", "404", "None")
    assert "Request for unknown model: 'nobody' is not found" in message


@pytest.mark.skipif(PERF_ANALYZER is None, reason="perf_analyzer is not on PATH: docs/oip.md says where it is")
@pytest.mark.parametrize("how", [["grpc"], ["grpc", "--streaming", "--async"], ["http"]], ids=" ".join)
@pytest.mark.parametrize(("name", "width"), [("plain", 0), ("taught", 1)])
async def test_perf_analyzer_measures_sequences(server, model, tmp_path: Path, how, name, width):
    ticks = [{"x": {"content": row.tolist(), "shape": [2]}} for row in ROWS[0]]
    if width:
        ticks = [tick | {"y": {"content": [0.5], "shape": [1]}} for tick in ticks]
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"data": [ticks, ticks]}))
    assert PERF_ANALYZER is not None

    said = await run(
        PERF_ANALYZER, "-m", name, "-u", server.http if "http" in how else server.grpc, "-i", *how,
        "--concurrency-range", "2",
        "--sequence-length", "10", "--input-data", str(data), "--measurement-mode", "count_windows",
        "--measurement-request-count", "50", "-s", "999", "--max-trials", "3",
    )  # fmt: skip

    assert "Throughput:" in said, said
    assert "Inference count:" in said, said
