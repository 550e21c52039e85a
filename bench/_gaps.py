"""The gap at the kill of an owner: how long a stream of the SDK waits for its next answer."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from dataclasses import dataclass, field
from statistics import median

import numpy as np

import freshet
from bench._nodes import Backend, Nodes, nodes
from bench.report import Row
from service.cluster.nodes.placing import preferred
from service.programs.backtest.child import ServerChild

ASKED_S = 0.2
SHARDS, STREAMS, PAUSE_S = 1, 8, 0.02  # a stream sends its next tick this long after an answer
BEAT_S = 0.25  # instead of 2 s, so that a node that has come back gets its shard again sooner
DEADLINE_S = 60.0


@dataclass(slots=True)
class Waits:
    """Of each stream, when its steps began and ended, monotonic seconds."""

    steps: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: {n: [] for n in range(STREAMS)})

    def forget(self) -> None:
        """Forget the steps so far."""
        for steps in self.steps.values():
            steps.clear()

    def after(self, killed: float) -> list[float]:
        """Return the longest step of each stream since the kill, once each has begun and ended one later; else []."""
        later = [any(begin > killed + 2 * PAUSE_S for begin, _ in steps) for steps in self.steps.values()]
        return [max(end - begin for begin, end in steps) for steps in self.steps.values()] if all(later) else []


@dataclass(slots=True)
class Kills:
    """What was seen at the kills: gaps of streams, and by kill the longest one and what the new owner logs."""

    gaps: list[float] = field(default_factory=list)
    longest: list[float] = field(default_factory=list)
    claims: list[float] = field(default_factory=list)  # seconds from the decision to claim until the shard serves
    replayed: list[int] = field(default_factory=list)  # entries
    recovery: list[float] = field(default_factory=list)  # seconds of the claims that snapshot and replay took

    def note(self, log: str, gaps: list[float]) -> None:
        """Note one kill. log: what the new owner has logged since."""
        claims = [(int(m), float(s)) for m, s in re.findall(r"event=claimed .*?models=(\d+) seconds=(\S+)", log)]
        recovered = re.findall(r"event=recovered models=(\d+) replayed=(\d+) seconds=(\S+)", log)
        self.gaps += gaps
        self.longest.append(max(gaps))
        self.claims += [seconds for models, seconds in claims if models][-1:]
        self.replayed += [int(count) for models, count, _ in recovered if int(models)][-1:]
        self.recovery += [float(seconds) for models, _, seconds in recovered if int(models)][-1:]

    def rows(self, backend: str, settings: str) -> list[Row]:
        """Return the rows of a backend."""
        case = f"gap, {backend}{settings}"
        return [
            Row(case, f"p50 over {len(self.longest)} kills × {STREAMS} streams", median(self.gaps), "s", asked=ASKED_S),
            Row(case, "max", max(self.gaps), "s", asked=ASKED_S),
            Row(case, "p50 over asked", median(self.gaps) / ASKED_S, "ratio"),
            Row(case, "of it, claim until the shard serves, p50", median(self.claims), "s"),
            Row(case, "of that, snapshot and replay, p50", median(self.recovery), "s"),
            Row(case, "entries replayed, p50", median(self.replayed), "entries"),
            Row(case, "entries replayed, max", max(self.replayed), "entries"),
        ]


async def gap(backend: Backend, kills: int, tail_s: float) -> list[Row]:
    """Kill the owner of a learning model this often, `tail_s` after it was handed the shard, and return the rows."""
    seen, waits, stopping = Kills(), Waits(), asyncio.Event()
    settings = {"shards": SHARDS, "heartbeat_s": BEAT_S}
    async with (
        nodes(backend.url("gap"), 2, settings, sharing=False) as made,
        freshet.connect(made.addresses) as client,
        asyncio.TaskGroup() as group,
    ):
        await client.create_model("m", channels=["x"], hidden=16)
        for n in range(STREAMS):
            group.create_task(_stream(client, n, waits, stopping))
        for kill in range(kills):
            owner = await _settled(made)
            await asyncio.sleep(tail_s)
            await _kill(made, owner, waits, seen)
            said = f"{seen.longest[-1]:.3f} s, claim {seen.claims[-1]} s, replayed {seen.replayed[-1]}"
            print(f"gap, {backend.name}: kill {kill + 1} of {kills}: {said}", file=sys.stderr, flush=True)
        stopping.set()
    return seen.rows(backend.name, f", tail {tail_s:g} s")


async def _settled(made: Nodes) -> ServerChild:
    """Wait until the node that should own the model's shard owns it: it has been handed over, with an image."""
    preferred_node = preferred(0, made.addresses)
    async with asyncio.timeout(DEADLINE_S):
        while (owner := await asyncio.to_thread(made.owner, "m", SHARDS)).grpc != preferred_node:
            await asyncio.sleep(0.1)
    return owner


async def _kill(made: Nodes, owner: ServerChild, waits: Waits, seen: Kills) -> None:
    """Kill the owner, wait until every stream has its next answer, and start the node again."""
    [heir] = [node for node in made.each if node is not owner]
    logged = len(made.log(heir))
    waits.forget()
    killed = time.monotonic()
    owner.kill()
    await owner.wait()
    async with asyncio.timeout(DEADLINE_S):
        while not (gaps := waits.after(killed)):
            await asyncio.sleep(0.02)
    seen.note(made.log(heir)[logged:], gaps)
    await owner.start()


async def _stream(client: freshet.Client, n: int, waits: Waits, stopping: asyncio.Event) -> None:
    x = np.random.default_rng(n).standard_normal(100_000).cumsum()
    async with client.stream("m", f"s{n}") as stream:
        for value in x:
            if stopping.is_set():
                return
            begin = time.monotonic()
            await stream.step([float(value)])
            waits.steps[n].append((begin, time.monotonic()))
            await asyncio.sleep(PAUSE_S)
