"""Measure what idle models cost a live one: bytes written, staleness and CPU per tick beside 0, 50, 99 and 999 of them.

One server per number runs at the same time. A stream of a live model ticks at each server in turn, several times, so
that other load on the machine affects all alike. Each idle model has the default spec and has learned from a few ticks
of one stream. Bytes are those that the server and its trainer wrote to the disk; ratios compare with the server without
idle models. Also measured: how fast an SDK client creates the models, the start of a server that has them, and the
memory of server and trainer per idle model, before and after that start.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import freshet
from bench.memory import resident_bytes
from bench.report import Row, finish, parser
from service.programs.backtest.child import ServerChild

HELD = 1.2  # the bound on the ratio to no idle model
HELD_AT = 99  # idle models
DEADLINE_S = 600.0
AT_ONCE = 8  # concurrent calls that create models or tick the idle ones
IDLE_TICKS = 3
PAUSE_S = 2.0  # from the last tick of the idle models to the first measured tick


@dataclass
class Taken:
    """The cost of one block of ticks, or the sum of several."""

    ticks: int = 0
    written: int = 0  # bytes
    cpu_s: float = 0.0
    staleness: list[int] = field(default_factory=list)

    def __add__(self, other: Taken) -> Taken:
        return Taken(
            self.ticks + other.ticks, self.written + other.written, self.cpu_s + other.cpu_s,
            self.staleness + other.staleness,
        )  # fmt: skip


class Place:
    """One server with its idle models."""

    def __init__(self, folder: Path, idle: int) -> None:
        self.idle = idle
        log = folder / f"log-{idle}"
        settings = {"max_models": max(100, 2 * idle)}
        self.child = ServerChild(folder / f"data-{idle}", log, settings=settings)
        self.taken = Taken()
        self.created_per_s = self.start_s = math.nan
        self.memory: dict[str, list[int]] = {"server": [], "trainer": []}  # bytes: before, after the restart

    def processes(self) -> tuple[int, int]:
        """Return the process ids of the server and its trainer."""
        children = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text().split()
        [trainer] = [int(pid) for pid in children if b"service.trainer" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return self.child.pid, trainer

    async def fill(self) -> None:
        """Create the models, tick a stream of each, then restart the server and time it."""
        await self.child.start(DEADLINE_S)
        async with freshet.connect(self.child.grpc) as client:
            started = time.perf_counter()
            await self._each(lambda n: client.create_model(f"idle-{n}", ["v"]))
            self.created_per_s = self.idle / (time.perf_counter() - started)

            async def tick(n: int) -> None:
                async with client.stream(f"idle-{n}", "pump") as stream:
                    for t in range(IDLE_TICKS):
                        await stream.step([math.sin(n + t)])
                    await stream.wait_judged(IDLE_TICKS)

            await self._each(tick)
            await client.create_model("live", ["v"])
        self.remember()
        await self.child.stop(DEADLINE_S)
        started = time.perf_counter()
        await self.child.start(DEADLINE_S)
        self.start_s = time.perf_counter() - started
        await asyncio.sleep(PAUSE_S)
        self.remember()

    async def _each(self, call: Callable[[int], Awaitable[object]]) -> None:
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(n: int) -> None:
            async with limit:
                await call(n)

        await asyncio.gather(*(one(n) for n in range(self.idle)))

    def remember(self) -> None:
        """Store the resident memory of both processes."""
        for name, pid in zip(self.memory, self.processes(), strict=True):
            self.memory[name].append(resident_bytes(pid))

    async def block(self, seconds: float, rate: float) -> None:
        """Tick the live stream at `rate` for `seconds`; the rate is fixed, because part of the cost is per second."""
        pids = self.processes()
        async with freshet.connect(self.child.grpc) as client, client.stream("live", "pump") as stream:
            before, taken, started = totals(pids), Taken(), time.perf_counter()
            while taken.ticks < seconds * rate:
                await asyncio.sleep(started + taken.ticks / rate - time.perf_counter())
                forecast = await stream.step([math.sin(0.3 * stream.next_seq)])
                taken.staleness.append(forecast.seq - forecast.judged_through)
                taken.ticks += 1
            after = totals(pids)
        taken.written, taken.cpu_s = after[0] - before[0], after[1] - before[1]
        self.taken += taken


def totals(pids: Sequence[int]) -> tuple[int, float]:
    """Return the bytes that processes have written to the disk so far, and their CPU seconds."""
    written, cpu = 0, 0.0
    for pid in pids:
        found = re.search(r"^write_bytes: (\d+)", Path(f"/proc/{pid}/io").read_text(), re.M)
        assert found
        written += int(found[1])
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        cpu += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return written, cpu


async def measure(counts: Sequence[int], seconds: float, rounds: int, rate: float) -> list[Row]:
    """Return the rows of one run."""
    with tempfile.TemporaryDirectory() as folder:
        places = [Place(Path(folder), idle) for idle in counts]
        try:
            for place in places:
                await place.fill()
            for _ in range(rounds):
                for place in places:
                    await place.block(seconds, rate)
        finally:
            for place in places:
                if place.child.running:
                    await place.child.stop(DEADLINE_S)
    return [row for place in places for row in rows_of(place, places[0])]


def rows_of(place: Place, base: Place) -> list[Row]:
    """Return the rows of one server."""
    case, taken, alone = f"{place.idle} idle models", place.taken, base.taken
    asked = HELD if place.idle == HELD_AT else None
    per_tick = {
        "bytes written": (taken.written / taken.ticks, alone.written / alone.ticks, "B"),
        "CPU": (taken.cpu_s / taken.ticks, alone.cpu_s / alone.ticks, "s"),
        "staleness, mean": (statistics.mean(taken.staleness), statistics.mean(alone.staleness), "labels"),
    }
    rows = [Row(case, f"{name} per tick", value, unit) for name, (value, _, unit) in per_tick.items()]
    if place is base:
        return [*rows, Row(case, "to ready", place.start_s, "s")]
    rows += [
        Row(case, f"{name}, to none idle", value / of, "ratio", asked) for name, (value, of, _) in per_tick.items()
    ]
    for process in place.memory:
        for at, when in enumerate(("since created", "after a restart")):
            extra = place.memory[process][at] - base.memory[process][at]
            rows.append(Row(case, f"memory of the {process} per model, {when}", extra / place.idle, "B"))
    return [
        *rows,
        Row(case, "created by one SDK client", place.created_per_s, "1/s", better="higher"),
        Row(case, "to ready", place.start_s, "s"),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows; return 1 if a ratio exceeds its bound."""
    options = parser(__doc__)
    options.add_argument("--idle", type=int, nargs="+", default=[0, 50, 99, 999])
    options.add_argument("--seconds", type=float, default=4.0, help="duration of one block")
    options.add_argument("--rounds", type=int, default=4)
    options.add_argument("--rate", type=float, default=100.0, help="ticks of the live stream per second")
    a = options.parse_args(argv)
    if a.idle[0]:
        options.error("--idle: the first number must be 0, because the others are compared with it")
    return finish(asyncio.run(measure(a.idle, a.seconds, a.rounds, a.rate)), a.json)


if __name__ == "__main__":
    sys.exit(main())
