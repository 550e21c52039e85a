"""A steady load for a long time: memory, descriptors and threads of both processes must stop growing.

Everything with a limited life comes and goes all the time: calls, streams, models, labels, windows, refused ticks,
snapshots, journal segments. The same check must flag a server that keeps a little of every tick.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import freshet
from service.programs.backtest.child import ServerChild
from tests.journeys import crash
from tests.journeys.crash import SMALL, trainer_of, walk
from tests.torture.load import REGRESS
from tests.torture.report import Part, show

MiB = 1 << 20
SAMPLE_S = 0.5
# Memory is measured here, not how late learning is: beside other work a trainer, whose priority is the lowest, may be
# minutes late.
GIVE_UP_S = 600.0
PAUSE_S = 0.1  # between two rounds of a client: a steady load, not the maximum
WARM_UP = 1 / 3  # fraction of the time in which anything may grow
# Allowed growth by the slope from warm-up to end: the step size of an allocator's pages.
MAY_GROW = {"rss": 8 * MiB, "descriptors": 4, "threads": 4}
FLOW, LAB = "flow", "lab"
HANDLES = 32  # streams of one Mux call
POOL = 64  # streams that come and go
# Caps that are reached during the warm-up, so that everything that they bound is at its bound when it ends.
SETTINGS: dict[str, object] = {
    "segment_bytes": 256 << 10, "journal_keep_bytes": 1 << 20, "snapshot_s": 2.0, "keep_versions": 8,
    "checkpoint_chunks": 64, "max_resident": POOL, "idle_s": 1.0,
}  # fmt: skip
# A server that keeps half a kilobyte of every tick.
KEPT_BYTES = 512
LEAK = """
import sys
if "service.cli" in sys.orig_argv:
    from service.engine import session as engine
    kept, inner = [], engine.StepSession.run
    def run(self, x, u, state):
        kept.append(b"x" * (512 * len(x)))
        return inner(self, x, u, state)
    engine.StepSession.run = run
"""


class Use(NamedTuple):
    """The resources of one process."""

    rss: int  # bytes in memory
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Use:
        """Read them from /proc. Raises OSError if the process has ended."""
        proc = Path("/proc") / str(pid)
        pages = int((proc / "statm").read_text().split()[1])
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(proc / "fd")), len(os.listdir(proc / "task")))


def slope(times: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """Return the Theil–Sen slope, the median over all pairs (Sen 1968): robust to a few jumps."""
    i, j = np.triu_indices(len(times), 1)
    return float(np.median((values[j] - values[i]) / (times[j] - times[i])))


@dataclass
class Samples:
    """Samples of one process over time."""

    times: list[float] = field(default_factory=list)  # seconds
    uses: list[Use] = field(default_factory=list)

    def after_warm_up(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return times, and one column per field of Use."""
        first = int(len(self.times) * WARM_UP)
        return np.array(self.times[first:]), np.array(self.uses[first:], np.float64)

    def growth(self) -> dict[str, float]:
        """Return the growth from the end of the warm-up to the end by the slope, for each field of Use."""
        times, columns = self.after_warm_up()
        return {name: (times[-1] - times[0]) * slope(times, columns[:, n]) for n, name in enumerate(Use._fields)}

    def found(self, who: str) -> list[str]:
        """Describe the fields that grew more than allowed."""
        seconds = np.ptp(self.after_warm_up()[0])
        return [
            f"{who}: {name} grew by {grown:.0f} in {seconds:.0f} s, more than {MAY_GROW[name]}"
            for name, grown in self.growth().items()
            if grown > MAY_GROW[name]
        ]


class Load:
    """Clients that repeat the same actions until they are cancelled."""

    def __init__(self, client: freshet.Client, target: str) -> None:
        self._client, self._target = client, target
        self.ticks = self.labels = self.models = self.calls = self.refused = 0
        self._rows = walk(4096, 1)

    async def run(self) -> None:
        """Run the clients. Raises the first error of any of them."""
        await self._client.create_model(FLOW, **SMALL)
        await self._client.create_model(LAB, **REGRESS)
        async with asyncio.TaskGroup() as group:
            for work in (self._open, self._mux, self._lab, self._models, self._hang_up):
                group.create_task(self._again(work))

    async def _again(self, work: Callable[[int], Awaitable[None]]) -> None:
        for n in itertools.count():
            await work(n)
            self.calls += 1
            await asyncio.sleep(PAUSE_S)

    async def _open(self, n: int) -> None:
        async with self._client.stream(FLOW, f"open-{n % POOL}", 16, give_up_s=GIVE_UP_S) as stream:
            async for _ in stream.forecasts(self._some(64), max_staleness=256):
                self.ticks += 1
            with contextlib.suppress(freshet.TickRefused):
                await stream.step([float("nan")])
            self.refused += 1

    async def _mux(self, n: int) -> None:
        ids = [f"mux-{(n * HANDLES // 2 + i) % POOL}" for i in range(HANDLES)]
        async with self._client.mux(FLOW) as mux:
            for step in range(32):
                await mux.step(ids, np.repeat(self._rows[step][None], HANDLES, axis=0))
                self.ticks += HANDLES

    async def _lab(self, n: int) -> None:
        id = f"bench-{n % 8}"
        async with (
            self._client.stream(LAB, id, 16, give_up_s=GIVE_UP_S) as stream,
            self._client.learn(LAB, source=id, give_up_s=GIVE_UP_S) as learning,
        ):
            first = stream.next_seq
            rows = self._rows[:24]
            for row in rows:
                await stream.step(row)
            await stream.durable()
            for i in range(8):
                await learning.label(id, first + i, float(rows[i, 0]) * 2)
            await learning.window(rows[:8], rows[:8, 0] * 2)
            await learning.flush()
        self.ticks += len(rows)
        self.labels += 16

    async def _models(self, n: int) -> None:
        name = f"passing-{n}"
        await self._client.create_model(name, **SMALL)
        async with self._client.stream(name, f"of-{n}", 16, give_up_s=GIVE_UP_S) as stream:
            async for _ in stream.forecasts(self._some(48), max_staleness=48):
                self.ticks += 1
        await self._client.pause(name)
        await self._client.resume(name)
        await self._client.delete_model(name)
        self.models += 1

    async def _hang_up(self, n: int) -> None:
        """Disconnect a client in the middle of a call."""
        async with freshet.connect(self._target) as client:
            stream = client.stream(FLOW, f"gone-{n % POOL}", 16)
            await stream.__aenter__()
            await stream.step(self._rows[0])
            self.ticks += 1

    async def _some(self, n: int) -> AsyncIterator[NDArray[np.float32]]:
        for row in self._rows[:n]:
            yield row


async def sample(pids: Sequence[tuple[str, int]], seconds: float, enough: Callable[[], bool]) -> dict[str, Samples]:
    """Sample processes twice a second for `seconds`, and longer while it is not `enough`."""
    started, found = time.monotonic(), {name: Samples() for name, _ in pids}
    shown: list[float] = []
    while (now := time.monotonic() - started) < seconds or not enough():
        if now // 60 > len(shown):
            shown.append(now)
            show(f"{len(shown)} minutes of {seconds / 60:.0f}")
        for name, pid in pids:
            found[name].uses.append(Use.of(pid))
            found[name].times.append(now)
        await asyncio.sleep(SAMPLE_S)  # the interval of the measurement, not a wait for an event
    return found


async def soaked(folder: Path, seconds: float, ticks: int = 0, models: int = 0) -> Part:
    """Run one server under load for `seconds`, and until it has answered `ticks` and made and deleted `models`."""
    part = Part(rounds=1)
    async with crash.a_server(folder, **SETTINGS) as server, freshet.connect(server.grpc) as client:
        load = Load(client, server.grpc)
        running = asyncio.create_task(load.run())
        try:
            pids = await _processes(server, running)
            sampling = asyncio.create_task(sample(pids, seconds, lambda: load.ticks >= ticks and load.models >= models))
            await asyncio.wait((sampling, running), return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                sampling.cancel()
                await running  # it only ends with an error, which this raises
            samples = await sampling
        finally:
            running.cancel()
            await asyncio.wait((running,))
        segments = len(list((server.data / "journal").iterdir()))
    part.hits = int(load.ticks > 0 and load.models > 0)
    for name, its in samples.items():
        part.wrong += its.found(name)
        part.numbers[f"{name}: growth after the warm-up"] = {k: round(v, 1) for k, v in its.growth().items()}
        part.numbers[f"{name}: at the end"] = its.uses[-1]._asdict()
    part.numbers |= {"seconds": seconds, "ticks": load.ticks, "labels": load.labels, "calls": load.calls}
    part.numbers |= {"models made and deleted": load.models, "journal segments at the end": segments}
    grown = ", ".join(f"{name} {its.growth()['rss'] / MiB:+.2f} MiB" for name, its in samples.items())
    part.summary = f"{seconds:.0f} s, {load.ticks} ticks, {load.models} models made and deleted; after a third: {grown}"
    return part


async def _processes(server: ServerChild, running: asyncio.Task[None]) -> list[tuple[str, int]]:
    """Return the server and its trainer, once it has started."""
    async with asyncio.timeout(crash.DEADLINE_S):
        while not (trainer := trainer_of(server)):
            if running.done():
                await running
            await asyncio.sleep(0.05)
    return [("server", server.pid), ("trainer", trainer)]


def run(folder: Path, quick: bool) -> Part:
    """Run. Quick: 5 minutes. Full: 60 minutes."""
    return asyncio.run(soaked(folder, 300.0 if quick else 3600.0))
