"""Measure a fleet of slow streams: 1,000 streams with one tick a second each, every stream in a call of its own.

Ticks are spread over the second, so that each comes alone. The server's CPU per tick is that of all its threads, beside
a bare echo that gets the same ticks; both take turns, and the ratio is the median over rounds of the ratio within one
round. The time of a tick is the client's, from its message to its forecast: the median and the 99th percentile.
`--durable-alone` asks for the answers that older clients get: a Durable message after each tick. `--against TREE` takes
turns with the server of another checkout too, and reports the CPU per tick relative to its.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np

from bench._costs import LOOPS, between, calibration_s, threads
from bench._echo import MODEL, Target, other, pair
from bench.report import Row, finish, parser
from freshet.v1 import streams_pb2, streams_pb2_grpc

PERIOD_S = 1.0
WARM_S = 3.0
MOST_OUTSTANDING_S = 20.0


@dataclass(slots=True)
class Fleet:
    """The open calls to one server. waited: seconds of each tick of this turn; sent: ticks of each stream so far."""

    target: Target
    calls: list[Any] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    sent: int = 0

    async def open(self, stack: AsyncExitStack, streams: int, channels: int, hello: streams_pb2.Hello | None) -> None:
        """Open the calls; hello: without the stream's id; None for a server that answers no Hello."""
        stubs = []
        for _ in range(channels):
            channel = await stack.enter_async_context(self.target.connect())
            stubs.append(streams_pb2_grpc.StreamsStub(channel))
        for i in range(streams):
            call: Any = stubs[i % channels].Open()
            self.calls.append(call)
            if hello is not None:
                hello.stream = f"s{i}"
                await call.write(streams_pb2.OpenRequest(hello=hello))
                await call.read()

    async def turn(self, seconds: float) -> tuple[float, list[float]]:
        """Tick every stream once per period for that time. Returns the server's CPU seconds per tick, and the waits."""
        self.waited, ticks = [], round(seconds / PERIOD_S)
        values = np.random.default_rng(self.sent).standard_normal((len(self.calls), ticks)).cumsum(axis=1).tolist()
        before, began = threads(self.target.pid), time.perf_counter()
        async with asyncio.timeout(seconds + MOST_OUTSTANDING_S), asyncio.TaskGroup() as group:
            for i, call in enumerate(self.calls):
                first = began + PERIOD_S * i / len(self.calls)
                group.create_task(self._stream(call, values[i], first))
        self.sent += ticks
        used = between(before, threads(self.target.pid))
        return sum(thread.cpu_s for thread in used.values()) / (ticks * len(self.calls)), self.waited

    async def _stream(self, call: Any, values: list[float], first: float) -> None:
        for n, value in enumerate(values):
            await asyncio.sleep(first + n * PERIOD_S - time.perf_counter())
            started = time.perf_counter()
            tick = streams_pb2.Tick(seq=self.sent + n + 1, x=[value])
            await call.write(streams_pb2.OpenRequest(tick=tick))
            while (response := await call.read()).WhichOneof("message") != "forecast":
                if response is grpc.aio.EOF or response.WhichOneof("message") != "durable":
                    raise RuntimeError(f"unexpected answer: {response}")
            self.waited.append(time.perf_counter() - started)


async def run(
    streams: int, channels: int, seconds: float, rounds: int, hello: streams_pb2.Hello, tree: Path | None
) -> list[Row]:
    """Run the fleet at the servers, in turns, and return the rows. tree: another checkout, whose server takes part."""
    taken: list[list[float]] = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        targets = list(await stack.enter_async_context(pair(folder)))
        if tree:
            targets.append(await stack.enter_async_context(other(tree, folder / "other")))
        fleets = [Fleet(target) for target in targets]
        waited: list[list[float]] = [[] for _ in fleets]
        for fleet, greeting in zip(fleets, (hello, None, hello), strict=False):
            await fleet.open(stack, streams, channels, greeting)
            await fleet.turn(WARM_S)
        for r in range(rounds):
            taken.append([0.0] * len(fleets))
            for which in range(len(fleets))[:: 1 if r % 2 else -1]:
                taken[r][which], waits = await fleets[which].turn(seconds)
                waited[which].extend(waits)
        for fleet in fleets:
            for call in fleet.calls:
                call.cancel()
    return rows(f"{streams} streams, a tick each {PERIOD_S:g} s", taken, waited)


def rows(case: str, taken: Sequence[Sequence[float]], waited: Sequence[Sequence[float]]) -> list[Row]:
    """Return the rows. taken: CPU seconds per tick by round and server; waited: seconds of each tick, by server.

    The servers: ours, the echo and, if it took part, the other checkout's.
    """
    ours_s, loop_s = median(round_[0] for round_ in taken), calibration_s() / LOOPS * 1000
    found = [
        Row(case, "server CPU per tick", ours_s, "s"),
        Row(case, "bare echo CPU per tick", median(round_[1] for round_ in taken), "s"),
        Row(case, "server over echo", median(round_[0] / round_[1] for round_ in taken), "ratio"),
        Row(case, "server CPU per tick over 1,000 rounds of a Python loop", ours_s / loop_s, "ratio"),
    ]
    if len(waited) > 2:
        found += [
            Row(case, "other checkout's CPU per tick", median(round_[2] for round_ in taken), "s"),
            Row(case, "server over other checkout", median(round_[0] / round_[2] for round_ in taken), "ratio"),
        ]
    return found + [
        Row(case, f"time of a tick, {who}, {name}", float(np.percentile(waits, percent)), "s")
        for who, waits in zip(("server", "echo", "other checkout"), waited, strict=False)
        for name, percent in (("median", 50), ("p99", 99))
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows."""
    options = parser(__doc__)
    options.add_argument("--streams", type=int, default=1000)
    options.add_argument("--channels", type=int, default=10, help="connections that the calls share")
    options.add_argument("--seconds", type=float, default=8.0, help="length of one turn")
    options.add_argument("--rounds", type=int, default=4)
    options.add_argument("--durable-alone", action="store_true", help="as older clients, which get a Durable per tick")
    options.add_argument("--against", type=Path, metavar="TREE", help="another checkout, whose server takes turns too")
    a = options.parse_args(argv)
    hello = streams_pb2.Hello(model=MODEL, durable_in_forecasts=not a.durable_alone)
    tree = a.against and a.against.resolve()
    return finish(asyncio.run(run(a.streams, a.channels, a.seconds, a.rounds, hello, tree)), a.json)


if __name__ == "__main__":
    sys.exit(main())
