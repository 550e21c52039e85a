"""Each alert's fault, provoked on a real server that a real Prometheus scrapes: its condition comes true, and only its.
(That of certificates: test_prometheus.)

How long a condition must hold before the alert fires is tested in tests/deploy/test_alerts.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

import freshet
from freshet.v1 import training_pb2
from service.programs.backtest.child import ServerChild
from tests.journeys.conftest import QUICK
from tests.journeys.crash import mutate, trainer_of
from tests.journeys.prometheus import DEADLINE_S, PAUSE_S, Prometheus, deployed, needs_prometheus, scraping
from tests.journeys.raw import RawLearn, RawStream, channel_to

LEFT = "FreshetNotReady"
OF_THE_MACHINE = {"FreshetForecastsSlow"}  # true of one that is busy with something else
ENOUGH = 5  # more than the alerts bear of restarts, and of rollbacks, in their windows
SLOW_STEPS = """
import os, time
from service.engine.loaded import StepSession
run = StepSession.run

def slow(self, *arguments):
    if os.path.exists({flag!r}):
        time.sleep(0.15)
    return run(self, *arguments)

StepSession.run = slow
"""
NARROW_INTERVALS = """
import os
from model.answers import intervals
follow = intervals.follow

def narrow(interval, *arguments):
    found = follow(interval, *arguments)
    if os.path.exists({flag!r}):
        interval["log"] -= 5
    return found

intervals.follow = narrow
"""

# Labels wait while the trainer is killed again and again, on a busy machine for longer than a minute.
SETTINGS = {"cool_down_labels": 0, "fresh_s": 3600.0}

pytestmark = [pytest.mark.long, pytest.mark.timeout(400), needs_prometheus]


class Disk:
    """A file system of its own that can be made smaller."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Mount it with these options."""
        words = ["mount", "-t", "tmpfs", "-o", ",".join(options), "freshet-test", str(self.path)]
        return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """2 GB, of which nothing is taken before it is written. Skips where mounting is not permitted."""
    made = Disk(tmp_path / "disk")
    made.path.mkdir()
    if (mounted := made.mount("size=2g")).returncode:
        pytest.skip(f"cannot mount a file system here: {mounted.stderr.strip()}")
    try:
        yield made
    finally:
        subprocess.run(["umount", "-l", str(made.path)], check=True)


class Conditions:
    """The alerts' conditions. `provoked`: those whose fault was brought about."""

    def __init__(self, prometheus: Prometheus, expressions: dict[str, str]) -> None:
        self._prometheus, self._expressions = prometheus, expressions
        self.provoked: set[str] = set()

    async def true(self) -> set[str]:
        """Which are true now. A scrape that is missed, as on a busy machine, counts only after the server has left."""
        found = {name for name, expression in self._expressions.items() if await self._prometheus.query(expression)}
        missed = LEFT not in self.provoked and await self._prometheus.query("min_over_time(up[10s]) == 0")
        return found - {LEFT} if missed else found

    async def until(self, name: str) -> None:
        """Return once it is true. None may be true meanwhile that was not provoked."""
        self.provoked.add(name)
        async with asyncio.timeout(DEADLINE_S):
            while name not in (true := await self.true()):
                assert true <= self.provoked
                await asyncio.sleep(PAUSE_S)
        assert true <= self.provoked


@contextlib.asynccontextmanager
async def watched(server: ServerChild, folder: Path) -> AsyncIterator[Conditions]:
    """The conditions of a server that a Prometheus has scraped."""
    async with scraping(folder, deployed(server.http)) as prometheus:
        async with asyncio.timeout(DEADLINE_S):
            while not await prometheus.query('freshet_rollbacks_total{model="flow"}'):  # before anything is counted
                await asyncio.sleep(PAUSE_S)
        rules = await prometheus.rules()
        yield Conditions(prometheus, {rule["name"]: rule["query"] for rule in rules})


async def teach(client: freshet.Client, ticks: int) -> None:
    """Ticks of one stream, learned and judged."""
    async with client.stream("flow", "pump") as stream:
        first = stream.next_seq
        async for _ in stream.forecasts(np.sin(np.arange(ticks) / 3)):
            pass
        await asyncio.wait_for(stream.wait_judged(first + ticks - 1), DEADLINE_S)


async def slow_forecasts(client: freshet.Client, flag: Path) -> None:
    """Some forecasts that take 0.15 s."""
    flag.touch()
    async with client.stream("flow", "slow") as stream:
        async for _ in stream.forecasts(np.zeros(20)):
            pass
    flag.unlink()


async def trainer_deaths(server: ServerChild) -> None:
    """The trainer is killed as often as it comes back."""
    for _ in range(ENOUGH):
        async with asyncio.timeout(DEADLINE_S):
            while not (trainer := trainer_of(server)):
                await asyncio.sleep(PAUSE_S)
        os.kill(trainer, signal.SIGKILL)
        async with asyncio.timeout(DEADLINE_S):
            while trainer_of(server) == trainer:
                await asyncio.sleep(PAUSE_S)


async def rollbacks(client: freshet.Client) -> None:
    """To the first version and back."""
    later = (await client.versions("flow"))[0].number
    for _ in range(ENOUGH):
        await client.promote("flow", later)
        await client.rollback("flow", 1)


async def conflicts(channel: grpc.aio.Channel) -> None:
    """Labels that contradict the one before."""
    async with RawStream(channel, "labelled", "vat") as stream:
        for seq in range(1, 10):
            await stream.tick(seq, [float(seq)])
        async with RawLearn(channel, "labelled", "camera", training_pb2.LearnHello.LEARNED) as call:
            for y in range(200):
                await call.say(label=training_pb2.StreamLabel(stream="vat", seq=5, y=[float(y)]))
            await call.until(labels=200)


async def test_each_fault_makes_its_alert_true_and_no_other(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
):
    flag, narrow = tmp_path / "slow", tmp_path / "narrow"
    mutations = SLOW_STEPS.format(flag=str(flag)) + NARROW_INTERVALS.format(flag=str(narrow))
    mutate(monkeypatch, tmp_path, mutations)
    server = ServerChild(disk.path / "data", tmp_path / "log", settings=QUICK | SETTINGS)
    await server.start()
    async with freshet.connect(server.grpc) as client, channel_to(server.grpc) as channel:
        await client.create_model("flow", ["x"], hidden=4, intervals=[0.9])
        await client.create_model("labelled", ["x"], task="regress", targets=["q"], hidden=4)
        async with watched(server, tmp_path) as alerts:
            await teach(client, ticks=200)
            assert await alerts.true() <= OF_THE_MACHINE, "a server that is well"

            await slow_forecasts(client, flag)
            await alerts.until("FreshetForecastsSlow")
            await trainer_deaths(server)
            await alerts.until("FreshetTrainerBehind")
            await teach(client, ticks=50)
            await rollbacks(client)
            await alerts.until("FreshetModelWorse")
            narrow.touch()
            await teach(client, ticks=1500)
            await alerts.until("FreshetCoverageOff")
            await conflicts(channel)
            await alerts.until("FreshetLabelsNotLearned")
            assert not disk.mount("remount", "size=64m").returncode
            await alerts.until("FreshetDisk")
            server.kill()
            await server.wait()
            await alerts.until(LEFT)

            assert len(alerts.provoked) == 7
