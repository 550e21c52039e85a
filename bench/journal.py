"""Measure the cost of the journal: forecasts per second and latency with and without it, on two servers in turns.

"Off" is a server in which encoding, writing and syncing a commit do nothing. This bench patches it; production has no
such switch. Everything else is the same, and neither server gives its trainer work. Throughput: 32 streams with 8 ticks
in flight each, and packed messages. Latency: one stream alone. Also measured, with the journal: the time of commits,
and labels acknowledged (so, durable) per second.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

import freshet
from bench._drives import UNDURABLE, drive, drive_packed
from bench.report import Row, finish, parser
from freshet.v1 import models_pb2, models_pb2_grpc, streams_pb2, streams_pb2_grpc, types_pb2
from service.console.exposition import quantile
from service.programs.backtest.child import ServerChild

ROUNDS = 9
STREAMS, IN_FLIGHT, TICKS = 32, 8, 150
PACKED_STREAMS, PACKED_MESSAGES = 1024, 60
ALONE = 600
LABELS = 20_000
COMMIT = "freshet_journal_commit_seconds_bucket"
IDLE_TRAINER = """
from service.journal import writer as journal
journal.Journal.read = lambda self, position, max_bytes: []
"""
OFF = """
def _write(self, batch):
    self._end = getattr(self, "_end", self._durable_position) + 1
    return self._end, [chunk.ticks() for chunk in batch]
journal.Journal._write = _write
"""


@contextlib.asynccontextmanager
async def a_server(folder: Path, name: str, patch: str) -> AsyncIterator[ServerChild]:
    """Run a server that executes `patch` first, as its sitecustomize."""
    (folder / name).mkdir()
    (folder / name / "sitecustomize.py").write_text(
        f'import sys\nif "service.cli" in sys.orig_argv:\n{_indented(patch)}' if patch else ""
    )
    sys.path.insert(0, str(folder / name))
    child = ServerChild(folder / name / "data", folder / name / "log")
    try:
        await child.start()
    finally:
        sys.path.remove(str(folder / name))
    try:
        yield child
    finally:
        child.kill()  # nothing that it would write while draining is needed
        await child.wait()


def _indented(code: str) -> str:
    return "".join(f"    {line}\n" for line in code.splitlines())


class Driven:
    """One server with its calls and measurements."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel, self._streams = channel, streams_pb2_grpc.StreamsStub(channel)
        self._calls: list[Any] = []
        self._packed: Any = None
        self._next, self._next_alone, self._next_packed, self._durable = 1, 1, 1, 0

    async def open(self) -> None:
        """Create the model and open every stream."""
        spec = types_pb2.ModelSpec(channels=["v"], hidden=32, learn=False)
        await models_pb2_grpc.ModelsStub(self._channel).Create(models_pb2.CreateModelRequest(name="m", spec=spec))
        for n in range(STREAMS + 1):
            call = self._streams.Open()
            await call.write(streams_pb2.OpenRequest(hello=streams_pb2.Hello(model="m", stream=f"s{n}")))
            await call.read()
            self._calls.append(call)
        self._packed = self._streams.Mux()
        bind = [streams_pb2.Bind(handle=i, stream=f"p{i}") for i in range(PACKED_STREAMS)]
        await self._packed.write(streams_pb2.MuxRequest(model="m", bind=bind))
        while not (await self._packed.read()).bound:
            pass

    async def many(self) -> float:
        """Send TICKS ticks of every stream, and return the seconds taken."""
        started = time.perf_counter()
        await asyncio.gather(*(drive(call, self._next, TICKS, IN_FLIGHT, durable=True) for call in self._calls[1:]))
        self._next += TICKS
        return time.perf_counter() - started

    async def alone(self) -> float:
        """Tick one stream alone, and return the median seconds per tick, without waits for the disk."""
        call, taken = self._calls[0], []
        for _ in range(ALONE):
            while self._next_alone - self._durable > UNDURABLE:
                await self._read(call)
            started = time.perf_counter()
            await call.write(streams_pb2.OpenRequest(tick=streams_pb2.Tick(seq=self._next_alone, x=[1.0])))
            while await self._read(call) != "forecast":
                pass
            taken.append(time.perf_counter() - started)
            self._next_alone += 1
        return median(taken)

    async def _read(self, call: Any) -> str:
        response = await call.read()
        kind: str = response.WhichOneof("message")
        if kind == "durable":
            self._durable = response.durable.seq
        elif kind != "forecast":
            raise RuntimeError(f"unexpected answer: {response}")
        return kind

    async def packed(self) -> float:
        """Send PACKED_MESSAGES messages with a tick of each stream, and return the seconds taken."""
        started = time.perf_counter()
        await drive_packed(self._packed, PACKED_STREAMS, self._next_packed, PACKED_MESSAGES)
        self._next_packed += PACKED_MESSAGES
        return time.perf_counter() - started


async def in_turns(blocks: dict[str, Callable[[], Awaitable[float]]], rounds: int) -> dict[str, list[float]]:
    """Run the blocks in turn, and return each one's values without those of the first round, which warms up."""
    taken: dict[str, list[float]] = {name: [] for name in blocks}
    for r in range(rounds + 1):
        for name in list(blocks) if r % 2 else list(blocks)[::-1]:
            value = await blocks[name]()
            if r:
                taken[name].append(value)
    return taken


async def labels_per_second(target: str) -> float:
    """Send labels of earlier ticks from one client, and return how many are acknowledged per second."""
    async with freshet.connect(target) as client:
        spec: dict[str, Any] = {"channels": ["x"], "task": "regress", "targets": ["q"], "label_horizon": LABELS}
        await client.create_model("lab", **spec)
        rows = np.random.default_rng(0).standard_normal((LABELS, 1)).astype(np.float32)
        async with client.stream("lab", "bench") as stream:
            async for _ in stream.forecasts(rows):
                pass
        async with client.learn("lab", source="bench") as learning:
            started = time.perf_counter()
            for seq in range(1, LABELS + 1):
                await learning.label("bench", seq, 1.0)
            await learning.flush()
            return LABELS / (time.perf_counter() - started)


def commits(http: str) -> tuple[float, float, float]:
    """Return p50 and p99 of all commits in seconds, interpolated within buckets, and their number."""
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples if s.name == COMMIT]
    buckets = sorted((float(s.labels["le"]), s.value) for s in samples)
    return quantile(buckets, 0.5) or 0.0, quantile(buckets, 0.99) or 0.0, buckets[-1][1]


async def measure(rounds: int) -> list[Row]:
    """Return the rows of one run."""
    options = [("grpc.max_receive_message_length", 64 << 20)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            a_server(folder, "on", IDLE_TRAINER) as on,
            a_server(folder, "off", IDLE_TRAINER + OFF) as off,
            grpc.aio.insecure_channel(on.grpc, options=options) as to_on,
            grpc.aio.insecure_channel(off.grpc, options=options) as to_off,
        ):
            driven = {"on": Driven(to_on), "off": Driven(to_off)}
            for each in driven.values():
                await each.open()
            many = await in_turns({n: d.many for n, d in driven.items()}, rounds)
            p50, p99, count = await asyncio.to_thread(commits, on.http)
            packed = await in_turns({n: d.packed for n, d in driven.items()}, rounds)
            alone = await in_turns({n: d.alone for n, d in driven.items()}, rounds)
            labels = await labels_per_second(on.grpc)
    rows = []
    for case, taken, n in (("32 streams", many, STREAMS * TICKS), ("packed", packed, PACKED_STREAMS * PACKED_MESSAGES)):
        rows += [Row(f"{case}, journal {k}", "forecasts per second", n / median(v), "1/s") for k, v in taken.items()]
        ratio = median(b / a for a, b in zip(taken["on"], taken["off"], strict=True))
        asked = 0.85 if taken is many else None  # packed ticks are columns, so encoding and writing weigh most there
        rows.append(Row(case, "forecasts per second, on over off", ratio, "ratio", asked=asked, better="higher"))
    rows += [Row(f"one stream, journal {k}", "latency p50", median(v), "s") for k, v in alone.items()]
    ratio = median(a / b for a, b in zip(alone["on"], alone["off"], strict=True))
    rows.append(Row("one stream", "latency p50, on over off", ratio, "ratio", asked=1.10))
    rows += [Row(f"{count:.0f} commits", f"commit {q}", v, "s") for q, v in (("p50", p50), ("p99", p99))]
    rows.append(Row("Training.Learn, one client", "labels acknowledged per second", labels, "1/s"))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows; return 1 if a ratio misses its bound."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = options.parse_args(argv)
    return finish(asyncio.run(measure(arguments.rounds)), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
