"""One data directory, one server: a second one is refused by the lock, also while the first is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

import freshet
from service.console.failures import ServerFailed
from service.programs.backtest.child import ServerChild
from tests.journeys import crash
from tests.journeys.crash import SMALL, walk, within

DATABASES = ("states.db", "versions.db", "trainer.db")


def contents(data: Path) -> dict[str, bytes]:
    """The databases and their write-ahead logs, without -shm, SQLite's list of readers.

    A second server reads the formats before it asks for the lock, and each reader notes there what it sees of the log.
    """
    paths = [path for name in DATABASES for path in data.glob(f"{name}*")]
    return {path.name: path.read_bytes() for path in paths if not path.name.endswith("-shm")}


def journals(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (data / "journal").glob("*.journal")}


def is_stopped(pid: int) -> bool:
    """Whether SIGSTOP has reached every thread: one inside a system call finishes it first."""
    states = [stat.read_text().rpartition(") ")[2][0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"T"}


async def until_stopped(pids: list[int]) -> None:
    while not all(map(is_stopped, pids)):
        await asyncio.sleep(0.01)  # Linux reports a stop as an event to the parent only


async def second_beside_a_stopped_owner(owner: ServerChild, log: Path) -> tuple[str, bool]:
    """Start a second server while every process of the first is stopped: why it was refused, empty if it was not; and
    whether files changed meanwhile."""
    second, refusal = ServerChild(owner.data, log), ""
    stopped = [owner.pid, crash.trainer_of(owner)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        await within(until_stopped(stopped))
        before = contents(owner.data), journals(owner.data)
        try:
            await second.start()
        except ServerFailed as error:
            refusal = str(error)
        changed = (contents(owner.data), journals(owner.data)) != before
        if second.running:
            second.kill()
            await within(second.wait())
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    return refusal, changed


async def test_a_second_server_is_refused_by_the_lock_while_the_owner_is_stopped_and_the_owner_goes_on(tmp_path):
    async with crash.a_server(tmp_path) as owner, freshet.connect(owner.grpc) as client:
        await client.create_model("flow", **SMALL)
        async with client.stream("flow", "pump") as stream:
            rows = walk(40, 0)
            first = [await within(stream.step(row)) for row in rows[:20]]
            await within(stream.durable())

            refusal, changed = await second_beside_a_stopped_owner(owner, tmp_path / "second.log")

            rest = [await within(stream.step(row)) for row in rows[20:]]
            assert f"lock: in use by process {owner.pid}" in refusal
            assert not changed
            assert [forecast.seq for forecast in first + rest] == list(range(1, 41))
            assert stream.reconnects == 0


@pytest.mark.long
async def test_a_second_server_without_the_locks_would_be_noticed(tmp_path, monkeypatch):
    crash.mutate(monkeypatch, tmp_path, "import fcntl\nfcntl.flock = lambda *arguments: None\n")
    owner = ServerChild(tmp_path / "data", tmp_path / "log")
    async with owner:
        refusal, _ = await second_beside_a_stopped_owner(owner, tmp_path / "second.log")
        owner.kill()  # two have been at its files
        await within(owner.wait())

    assert not refusal
