"""kill -9 of the server and of the trainer under load, at random moments and at named failpoints.

After each kill the surviving journal holds everything that was acknowledged, and streams resume by themselves. After
some kills the server drains, and every answer, label and weight is compared with the oracles.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import freshet
from service.console.failures import ServerFailed
from service.programs.backtest.child import ServerChild
from tests.journeys import crash
from tests.journeys.crash import kill_trainer, trainer_of
from tests.oracles import replay
from tests.torture import verify
from tests.torture.failpoints import (
    ALL,
    RANDOM_TRAINER,
    SERVER,
    STARTING,
    TRAINER,
    Failpoints,
    injected,
)
from tests.torture.load import Load
from tests.torture.report import Part, show

EPISODE = len(ALL)  # rounds with one data directory: every seam once
HIT_S = 60.0  # a seam not passed within this time is no hit
# Frequent segments and snapshots; the oracle needs the whole journal.
SETTINGS: dict[str, object] = {"segment_bytes": 4096, "snapshot_s": 0.3}


class Episode:
    """One data directory, one load, one kill after the other."""

    def __init__(self, folder: Path, part: Part, rng: random.Random) -> None:
        self._folder, self._part, self._rng = folder, part, rng
        self._failpoints = Failpoints(folder)

    async def run(self, seams: Sequence[str]) -> None:
        """One round per seam, then the comparison."""
        with injected(self._folder / "inject", self._failpoints.code):
            async with crash.a_server(self._folder, **SETTINGS) as server, freshet.connect(server.grpc) as client:
                load = Load(client)
                running = asyncio.create_task(load.run())
                torturing = asyncio.create_task(self._rounds(server, load, seams))
                await asyncio.wait((running, torturing), return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    torturing.cancel()
                    state = "runs" if server.running else "has ended"
                    raise AssertionError(f"a client failed; the server {state}{server.last_words()}") from (
                        running.exception()
                    )
                await torturing
                load.stop()
                await asyncio.wait_for(running, 2 * crash.DEADLINE_S)
        files = {model: replay.Files.of(server.data, model) for model in (1, 2)}  # drained: versions are final
        await asyncio.to_thread(verify.at_end, self._part, server.data, files, load)

    async def _rounds(self, server: ServerChild, load: Load, seams: Sequence[str]) -> None:
        for seam in seams:
            # A seam may not be passed, such as that of a replay right after a snapshot. Then it is tried once more.
            if not await self._round(server, load, seam):
                await self._round(server, load, seam, again=True)
        await load.until_enough(len(seams), verify.FEW)

    async def _round(self, server: ServerChild, load: Load, seam: str, again: bool = False) -> bool:
        """Kill at one seam; return False if it was not passed."""
        async with asyncio.timeout(3 * crash.DEADLINE_S):
            await load.until_all_moved(2)  # all clients continue after any kill
            self._part.rounds += 1
            if seam in TRAINER or seam == RANDOM_TRAINER:
                hit = await self._kill_trainer(server, load, seam)
            else:
                hit = await self._kill_server(server, load, seam, again)
        if hit:
            self._part.hits += 1
            self._part.hits_of[seam] += 1
        return hit

    async def _kill_server(self, server: ServerChild, load: Load, seam: str, again: bool) -> bool:
        first = "snapshot.before" if again and seam in STARTING else seam  # leaves much to replay
        if first in SERVER:
            self._failpoints.plan(first, self._rng.randint(1, SERVER[first]))
            try:
                await asyncio.wait_for(server.wait(), HIT_S)
            except TimeoutError:
                return self._failpoints.withdraw()
            assert self._failpoints.hit, f"the server ended by itself{server.last_words()}"
        else:
            for _ in range(self._rng.randint(1, 60)):
                await load.next_answer()
            server.kill()
            await server.wait()
        await self._check(server, load)
        hit = seam not in STARTING or await self._kill_starting(server, seam)
        if hit:
            await self._check(server, load)
            await server.start()
        return hit

    async def _kill_starting(self, server: ServerChild, seam: str) -> bool:
        """Kill the server again while it recovers. Returns False if it became ready before."""
        self._failpoints.plan(seam, self._rng.randint(1, STARTING[seam]))
        try:
            await server.start()
        except ServerFailed:
            assert self._failpoints.hit, server.last_words()
            return True
        return self._failpoints.withdraw()

    async def _check(self, server: ServerChild, load: Load) -> None:
        copy = self._folder / "survivors"
        verify.after_kill(self._part, server.data, copy, load)
        shutil.rmtree(copy)

    async def _kill_trainer(self, server: ServerChild, load: Load, seam: str) -> bool:
        async with asyncio.timeout(crash.DEADLINE_S):
            while not trainer_of(server):
                await load.next_answer()
        if seam == RANDOM_TRAINER:
            for _ in range(self._rng.randint(1, 60)):
                await load.next_answer()
            return kill_trainer(server) > 0
        self._failpoints.plan(seam, self._rng.randint(1, TRAINER[seam]))
        try:
            async with asyncio.timeout(HIT_S):
                while not self._failpoints.hit:
                    await load.next_answer()
        except TimeoutError:
            return self._failpoints.withdraw()
        return True


def every_seam(wanted: int, seed: int) -> list[str]:
    """Return the seams of `wanted` kills: every seam in turn, in an order drawn from the seed."""
    rng = random.Random(seed)
    return [seam for _ in range(0, wanted, len(ALL)) for seam in rng.sample(ALL, len(ALL))][:wanted]


async def rounds(folder: Path, plan: Sequence[str], seed: int) -> Part:
    """Kill at each of these seams, at a pass drawn from the seed."""
    rng, part = random.Random(seed), Part()
    for number, first in enumerate(range(0, len(plan), EPISODE)):
        await Episode(folder / f"{number}", part, rng).run(plan[first : first + EPISODE])
        shutil.rmtree(folder / f"{number}")
        show(f"{part.hits} kills of {len(plan)}")
    answered = part.numbers["answers compared"]
    part.summary = f"{part.hits} kills at {len(part.hits_of)} places; {answered} answers compared with the oracle"
    return part


def run(folder: Path, quick: bool) -> Part:
    """Run. Quick: every seam once. Full: 1,000 kills."""
    return asyncio.run(rounds(folder, every_seam(len(ALL) if quick else 1000, seed=0), seed=0))
