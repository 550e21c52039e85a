"""Killing real processes, and what a client noted down on its own about what it was told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import freshet
from service.common.gate import GateSettings
from service.programs.backtest.child import ServerChild
from tests.ports import free_port

Array = NDArray[np.float32]
DEADLINE_S = 60.0  # for anything that must come; on a loaded machine a process takes seconds to start

# What is learned must not depend on what else the machine does: labels that wait for the trainer are not thinned, and
# no other process has precedence over it.
UNHURRIED: dict[str, Any] = {"comfortable_s": 1e6, "trainer_nice": 0}
# Verdicts, checkpoints and anchors often, so that a crash meets each of them half-way. Every version is kept: the
# oracles replay the journal from its start, which recovery need not.
BUSY = UNHURRIED | {
    "publish_s": 0.1, "publish_labels": 16, "checkpoint_chunks": 8, "score_every": 2, "anchor_labels": 64,
    "anchor_scores": 1, "keep_versions": 1_000_000,
}  # fmt: skip
GATE = GateSettings(anchor_labels=64, anchor_scores=1, score_every=2)
# For a mutant of what a checkpoint holds: save one after every chunk, however long that takes. A busy machine puts many
# ticks into a chunk and takes long to save, so the kills of a journey may otherwise all come before the first.
SAVED_ALWAYS: dict[str, Any] = {"checkpoint_chunks": 1}
SAVES_ALWAYS = "from service.trainer import due\ndue.LONG_SAVE_S = 1e9\n"
SMALL: dict[str, Any] = {"channels": ["x"], "hidden": 8}


def walk(n: int, seed: int) -> Array:
    """(n, 1): a noisy wave that a small network can learn."""
    rng = np.random.default_rng(seed)
    t = np.arange(n)
    return (np.sin(t / 5) + 0.5 * np.sin(t / 17) + rng.normal(0, 0.1, n)).astype(np.float32)[:, None]


@contextlib.asynccontextmanager
async def a_server(folder: Path, **settings: object) -> AsyncIterator[ServerChild]:
    """A started server at an address that stays the same when it is started again; at the end it must drain well."""
    listen, http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    child = ServerChild(folder / "data", folder / "log", listen=listen, http=http, settings=BUSY | settings)
    await child.start()
    try:
        yield child
        if child.running:
            assert await child.stop() == 0, child.last_words()
    finally:
        if child.running:
            child.kill()
            await child.wait()


@contextlib.asynccontextmanager
async def servers(*folders: Path, **settings: object) -> AsyncIterator[list[ServerChild]]:
    """As `a_server`, several that start and drain at the same time."""
    each = [a_server(folder, **settings) for folder in folders]
    try:
        yield list(await asyncio.gather(*(server.__aenter__() for server in each)))
    finally:
        await asyncio.gather(*(server.__aexit__(None, None, None) for server in each))


def mutate(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Make servers that are started from here on, and their trainers, run this code first: as their sitecustomize."""
    (folder / "mutant").mkdir()
    (folder / "mutant" / "sitecustomize.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder / "mutant"))


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(parent) == pid and state != "Z":
                    found.append(int(entry.name))
    return found


def trainer_of(server: ServerChild) -> int:
    """The trainer that runs now; 0 between two. A server has no other child."""
    return next(iter(children(server.pid)), 0)


def kill_trainer(server: ServerChild) -> int:
    """kill -9 the trainer if one runs; its process id, or 0 if none ran or it ended by itself meanwhile."""
    pid = trainer_of(server)
    if pid:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # reaped between the two calls
            return 0
    return pid


async def within(awaitable: Any) -> Any:
    """The result, or TimeoutError after DEADLINE_S."""
    async with asyncio.timeout(DEADLINE_S):
        return await awaitable


@dataclass
class Ledger:
    """What one client was told about one stream, kept apart from the SDK's own books."""

    stream: str
    sent: Array  # (n, 1), in seq order from 1
    answers: dict[int, freshet.Forecast] = field(default_factory=dict)
    resumed_at: list[tuple[int, int]] = field(default_factory=list)  # per reconnect: answered before, server's next seq
    blurred: list[tuple[int, int]] = field(default_factory=list)  # the same, of reconnects seen only together
    durable: int = 0  # the highest seq that the server called durable
    moved: asyncio.Event = field(default_factory=asyncio.Event)  # set at each answer, for one who keeps abreast

    def note(self, stream: freshet.Stream, forecast: freshet.Forecast) -> None:
        """One forecast has come. It must be the next one: exactly one per tick, in order."""
        if stream.reconnects > len(self.resumed_at):
            missed = stream.reconnects - len(self.resumed_at)
            self.resumed_at += [(len(self.answers), stream.welcome.next_seq)] * missed
            if missed > 1:  # only the last Welcome is known: an earlier one may have asked for all that was not durable
                self.blurred.append((len(self.answers), self.durable + 1))
        assert forecast.seq == len(self.answers) + 1
        self.answers[forecast.seq] = forecast
        self.durable = max(self.durable, stream.durable_seq)

    @property
    def redone(self) -> set[int]:
        """Ticks that were answered, not durable, lost with the process, and taken again.

        Their first answer belongs to a line of events that the journal does not hold.
        """
        return {seq for answered, at in self.resumed_at for seq in range(at, answered + 1)}

    def perhaps_redone(self, in_flight: int) -> set[int]:
        """Ticks not in the journal when the stream resumed, whose first answer may have come before the kill.

        It waited in the SDK then, behind the last one that was noted, and was handed out after the reconnect.
        """
        spans = [(max(at, answered + 1), answered) for answered, at in self.resumed_at]
        spans += [(at, answered) for answered, at in self.blurred]
        return {seq for first, answered in spans for seq in range(first, answered + in_flight + 1)}


async def abreast(rows: Array, of: Ledger, lead: int = 40) -> AsyncIterator[Array]:
    """The rows, as another ledger's stream gets on."""
    for n, row in enumerate(rows):
        while n > len(of.answers) + lead and len(of.answers) < len(of.sent):
            of.moved.clear()
            await of.moved.wait()
        yield row


async def follow(
    stream: freshet.Stream,
    ledger: Ledger,
    moved: asyncio.Event,
    max_staleness: int | None = None,
    beside: Ledger | None = None,
) -> None:
    """Send the ledger's ticks, no faster than `beside` gets on, and note every answer; `moved` is set at each."""
    rows = ledger.sent if beside is None else abreast(ledger.sent, beside)
    async for forecast in stream.forecasts(rows, max_staleness=max_staleness):
        ledger.note(stream, forecast)
        assert max_staleness is None or forecast.staleness <= max_staleness, "also for one given again after a crash"
        moved.set()
        ledger.moved.set()
