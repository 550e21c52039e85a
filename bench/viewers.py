"""Measure what viewers of the live page cost the streams: the latency of single ticks with none and with twenty.

Phases take turns. A phase sends ticks to a model that learns, at an even pace, one at a time. The viewers are a process
of their own: each reads one event stream of the JSON API, with everything that the page can show, and a ghost. A viewer
that stops reading is one more: it must change nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from statistics import median
from urllib.parse import urlencode

import numpy as np

import freshet
from bench._costs import cpu_s
from bench.report import Row, finish, parser
from service.programs.backtest.child import ServerChild

MODEL, STREAM = "bench", "s"
SHOWN = "ticks,state,gradient,scores,samples"
PACE_S = 0.005  # between two ticks
OPEN_S = 30.0  # longest wait for the first block of every viewer


async def watch(address: str, count: int) -> None:
    """Be `count` viewers and one that does not read; print the bytes that one has read when standard input closes."""
    host, _, port = address.rpartition(":")
    query = urlencode({"model": MODEL, "stream": STREAM, "ghost": "open", "show": SHOWN})
    head = f"GET /api/v1/watch?{query} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n".encode()
    read = [0] * count
    begun = asyncio.Semaphore(0)

    async def view(n: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head)
        seen = b""
        while b"event: block" not in seen:
            data = await reader.read(1 << 16)
            if not data:
                raise RuntimeError(f"a viewer was refused: {seen[:300]!r}")
            seen += data
        begun.release()
        while data := await reader.read(1 << 16):
            read[n] += len(data)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(view(n)) for n in range(count)]
        idle_reader, idle_writer = await asyncio.open_connection(host, int(port), limit=1 << 10)
        idle_writer.write(head)
        for _ in range(count):
            await begun.acquire()
        print("open", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        for task in tasks:
            task.cancel()
        idle_writer.transport.abort()
        del idle_reader
    print(sum(read) // count, flush=True)


@contextlib.asynccontextmanager
async def viewed(address: str, count: int, read: list[int]) -> AsyncIterator[None]:
    """Have viewers inside the block. read: gets the mean number of bytes that one of them has read."""
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.viewers", "--watch", address, "--viewers", str(count),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert program.stdin
    assert program.stdout
    if await asyncio.wait_for(program.stdout.readline(), OPEN_S) != b"open\n":
        raise RuntimeError("the viewers did not come in; see above")
    try:
        yield
    finally:
        program.stdin.close()
        read.append(int(await program.stdout.readline() or b"0"))
        await program.wait()


async def latencies(stream: freshet.Stream, seed: int, n: int) -> list[float]:
    """Send n ticks, one every PACE_S, and return the seconds that each takes."""
    taken, due = [], time.perf_counter()
    for value in np.cumsum(np.random.default_rng(seed).standard_normal(n)):
        due = max(due + PACE_S, time.perf_counter())
        await asyncio.sleep(due - time.perf_counter())
        started = time.perf_counter()
        await stream.step([value])
        taken.append(time.perf_counter() - started)
    return taken


class Found:
    """Latencies and server CPU of each phase, a list per round; bytes that a viewer read in a phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[list[float]]] = {"alone": [], "viewed": []}
        self.cpu: dict[str, list[float]] = {"alone": [], "viewed": []}
        self.read: list[int] = []


async def measure(rounds: int, n: int, viewers: int) -> Found:
    """Return what each phase took."""
    found = Found()
    with tempfile.TemporaryDirectory() as folder:
        child = ServerChild(Path(folder) / "data", Path(folder) / "log")
        async with child, freshet.connect(child.grpc) as client:
            await client.create_model(MODEL, channels=["v"])
            async with client.stream(MODEL, STREAM) as stream:
                await latencies(stream, 0, n)  # warm up
                for r in range(rounds):
                    print(f"round {r + 1} of {rounds}", file=sys.stderr)
                    for phase in ("alone", "viewed") if r % 2 else ("viewed", "alone"):
                        watched = viewed(child.http, viewers, found.read)
                        async with watched if phase == "viewed" else contextlib.nullcontext():
                            before = cpu_s(child.pid)
                            found.seconds[phase].append(await latencies(stream, r + 1, n))
                            found.cpu[phase].append(cpu_s(child.pid) - before)
    return found


def rows_of(found: Found, viewers: int, n: int) -> list[Row]:
    """Return the figures, with what was asked of them."""
    rows = []
    for phase, rounds in found.seconds.items():
        together = np.concatenate(rounds)
        rows += [Row(phase, f"latency p{q}", float(np.percentile(together, q)), "s") for q in (50, 99)]
        rows.append(Row(phase, "server CPU per second", median(found.cpu[phase]) / (n * PACE_S), "ratio"))
    pairs = list(zip(found.seconds["viewed"], found.seconds["alone"], strict=True))
    for q, asked in ((50, 1.05), (99, 1.10)):
        ratio = median(float(np.percentile(v, q) / np.percentile(a, q)) for v, a in pairs)
        rows.append(Row(f"{viewers} viewers over none", f"latency p{q}", ratio, "ratio", asked=asked))
    rows.append(Row("one viewer", "bytes read per second", median(found.read) / (n * PACE_S), "B"))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows; return 1 if a ratio exceeds its bound."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--ticks", type=int, default=1000, help="ticks per phase")
    options.add_argument("--viewers", type=int, default=20)
    options.add_argument("--watch", metavar="ADDRESS", help="be the viewers of the server at this address")
    arguments = options.parse_args(argv)
    if arguments.watch:
        asyncio.run(watch(arguments.watch, arguments.viewers))
        return 0
    found = asyncio.run(measure(arguments.rounds, arguments.ticks, arguments.viewers))
    return finish(rows_of(found, arguments.viewers, arguments.ticks), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
