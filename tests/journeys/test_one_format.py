"""Every line of a server's processes, from any library, has the one format."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

import freshet
from service.programs.backtest.child import addresses
from tests.journeys import crash
from tests.journeys.raw import DEADLINE_S

# In the server: once it serves, each of those who write to standard error in their own way. In the trainer: a line,
# and one that ends with it.
NOISE = r"""
import os, sys
if "service.trainer.process" in sys.orig_argv:
    import service.trainer.hosting as hosting
    os.write(2, b"a library in the trainer\n")
    import warnings
    warnings.warn("of the trainer")
    def dies(*args, **kwargs):
        raise KeyError("a fault of the trainer")
    if not os.path.exists({once!r}):
        open({once!r}, "w").close()
        hosting.HostedModel.apply = dies
elif "serve" in sys.orig_argv:
    import asyncio, gc, threading, warnings
    import service.server.server as server
    lag = server.measure_lag
    async def fails():
        raise ValueError("nobody waits for this task")
    def in_thread():
        raise ValueError("nobody waits for this thread")
    class Finalized:
        def __del__(self):
            raise ValueError("nobody waits for this finalizer")
    async def noisy(*lagging):
        os.write(2, b"\x1b[0;93m2026-01-01 00:00:00.0 [W:onnxruntime:, graph.cc:1 Clean] of the graph\x1b[m\n")
        os.write(2, b"E0000 00:00:1700000000.000001    1234 chttp2.cc:1] of the core\n")
        os.write(2, "no ASCII: \u00e9 \"quoted\" = and \\\n".encode())
        os.write(2, b"\xff not UTF-8, and no end of line " + b"x" * 100_000)
        print("printed by somebody", file=sys.stderr)
        warnings.warn("a warning\nof two lines")
        asyncio.ensure_future(fails())
        await asyncio.sleep(0)
        gc.collect()
        thread = threading.Thread(target=in_thread, name="a thread")
        thread.start()
        thread.join()
        Finalized()
        await lag(*lagging)
    server.measure_lag = noisy
"""
SAID = [
    "a library in the trainer", "of the trainer", "a fault of the trainer", "of the graph", "of the core",
    'no ASCII: é "quoted" = and \\', "not UTF-8", "printed by somebody", "a warning", "nobody waits for this task",
    "nobody waits for this thread", "nobody waits for this finalizer", "Invalid HTTP request",
]  # fmt: skip
PAIR = re.compile(r' ?([^\s="]+)=("(?:[^"\\]|\\.)*"|[^\s"]*)')


def of_json(line: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def of_logfmt(line: str) -> dict[str, Any]:
    """Parse a line. Raises AssertionError unless it consists of pairs only."""
    pairs, at = {}, 0
    while at < len(line):
        found = PAIR.match(line, at)
        assert found, f"no pair at {at}: {line}"
        value = found[2]
        pairs[found[1]] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
        at = found.end()
    return pairs


async def lines_of(folder: Path, form: str) -> tuple[list[str], list[str]]:
    """Return standard output and error of a server that started, learned, met an invalid request, and drained."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service.cli", "serve", "--data", str(folder / "data"), "--listen", "127.0.0.1:0",
        "--http", "127.0.0.1:0", "--log-format", form, "--publish-s", "0.1",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert process.stdout
    assert process.stderr
    said = asyncio.create_task(process.stderr.read())
    shown = []
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not (ready := addresses((await process.stdout.readline()).decode().strip() or "ended")):
                assert process.returncode is None
            host, port = ready["http"].split(":")
            with socket.create_connection((host, int(port))) as stranger:
                stranger.sendall(b"\x00\x01\x02 no HTTP\r\n\r\n")
                await asyncio.to_thread(stranger.recv, 1)
            async with freshet.connect(ready["grpc"]) as client:
                await client.create_model("flow", **crash.SMALL)
                async with client.stream("flow", "pump") as stream:
                    for row in crash.walk(40, 1):
                        await stream.step(row)
                    await stream.wait_judged(39)  # learned by the second trainer
            process.send_signal(signal.SIGTERM)
            shown = (await process.stdout.read()).decode().splitlines()
            assert await process.wait() == 0
            return shown, (await said).decode().splitlines()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
            sys.stderr.write((await said).decode())


@pytest.mark.parametrize(("form", "parse"), [("json", of_json), ("logfmt", of_logfmt)])
async def test_every_line_of_a_noisy_server_can_be_parsed(tmp_path, monkeypatch, form, parse):
    crash.mutate(monkeypatch, tmp_path, NOISE.format(once=str(tmp_path / "died")))
    shown, said = await lines_of(tmp_path, form)

    lines = [parse(line) for line in said]
    assert all({"timestamp", "level", "event", "logger"} <= line.keys() for line in lines)
    everything = "\n".join(str(line["event"]) + str(line.get("exception", "")) for line in lines)
    assert [text for text in SAID if text not in everything] == []
    by = {line["logger"] for line in lines}
    assert {"server", "audit", "trainer", "onnxruntime", "grpc", "uvicorn.error", "asyncio", "py.warnings"} <= by
    if form == "json":
        assert {of_json(line)["event"] for line in shown} <= {"setting", "ready"}


async def test_an_error_at_start_is_in_the_same_format(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "states.db").write_bytes(b"no database" * 1000)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service.cli", "serve", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0",
        "--http", "127.0.0.1:0", "--log-format", "json",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(DEADLINE_S):
        _, said = await process.communicate()
    lines = [of_json(line) for line in said.decode().splitlines()]
    assert process.returncode == 2
    assert lines[-1]["event"] == "cannot start"
    assert "states.db" in lines[-1]["why"]
