"""Three nodes over one store under load: nodes are killed and paused, the store refuses, stalls and lies.

After each fault the store's journals hold everything that was acknowledged. At the end every answer, label and weight
is compared with the oracles, as after kills of a single server: an unbroken fold of each model's journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import freshet
from service.console.failures import ServerFailed
from service.journal.records import Chunk
from service.programs.backtest.child import ServerChild
from tests.cluster.several import Several, several
from tests.journeys import crash
from tests.oracles import replay
from tests.torture import cluster_losses, cluster_mutants, mutants, verify
from tests.torture.cluster_engines import ENGINES, SETTINGS, Engine
from tests.torture.failpoints import Failpoints, injected
from tests.torture.load import FLOW, LAB, Load
from tests.torture.report import NUMBERS, Part, show

HIT_S = 60.0  # a seam not passed within this time is no hit
AWAY_S = 1.0  # a killed node stays away at least for a moment, so that another must take over
# By seam: the maximum number of passes before the one that kills.
COMMIT = {"store.before_append": 40, "store.after_append": 40, "journal.after_ack": 40}
VERSIONS = {"version.unnamed": 4, "version.named": 4, "swap.recorded": 4}
IMAGES = dict.fromkeys(("image.before", "image.blocks", "image.unpublished", "image.published", "image.tidied"), 2)
# Passed only by a node that claims: another is killed first.
CLAIMS = dict.fromkeys(("claim.before", "claim.after", "claim.unhinted", "claim.hinted", "recovery.after"), 1)
LEAVING = dict.fromkeys(("handover.before", "handover.leaving"), 1)  # passed only by a node that is asked to stop
TRAINER = {"learn.after": 40, "checkpoint.mid": 3, "verdict.before": 4}
KILLS = COMMIT | VERSIONS | IMAGES | CLAIMS | LEAVING | TRAINER
RANDOM, PAUSED, DUEL = "node.random", "node.paused", "claim.duel"
CUT, STALLED, UNSURE, FAILED = "store.cut", "store.stalled", "store.answers lost", "store.500 after writing"
OF_PROXY = (CUT, STALLED, UNSURE, FAILED)
RESTARTED = "store.killed"
EPISODE = 24  # faults of one store
REDONE = 64  # ticks of a stream after a claim that may have been answered before it, and not been durable


class Episode:
    """One store, three nodes, one load, one fault after the other."""

    def __init__(self, folder: Path, engine: Engine, part: Part, rng: random.Random) -> None:
        self._folder, self._engine, self._part, self._rng = folder, engine, part, rng
        self._failpoints = Failpoints(folder)

    async def run(self, faults: Sequence[str]) -> None:
        """One round per fault, then the comparison."""
        with injected(self._folder / "inject", self._failpoints.code):
            engine = self._engine
            async with several(self._folder, urls=engine.urls, settings=SETTINGS, url=engine.url) as cluster:
                load = await self._loaded(cluster, faults)
        self._at_end(cluster, load)

    async def _loaded(self, cluster: Several, faults: Sequence[str]) -> Load:
        async with freshet.connect(cluster.addresses) as client:
            load = Load(client)
            await self._under_load(cluster, load, faults)
        return load

    async def _under_load(self, cluster: Several, load: Load, faults: Sequence[str]) -> None:
        running = asyncio.create_task(load.run())
        torturing = asyncio.create_task(self._rounds(cluster, load, faults))
        await asyncio.wait((running, torturing), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            torturing.cancel()
            words = "".join(node.last_words() for node in cluster.nodes)
            raise AssertionError(f"a client failed{words}") from running.exception()
        await torturing
        load.stop()
        await asyncio.wait_for(running, 2 * crash.DEADLINE_S)

    async def _rounds(self, cluster: Several, load: Load, faults: Sequence[str]) -> None:
        for fault in faults:
            # A node that is asked to stop may have handed its last shard over a moment before. Then it is tried again.
            if not await self._round(cluster, load, fault):
                await self._round(cluster, load, fault)
        await load.until_enough(len(faults))

    async def _round(self, cluster: Several, load: Load, fault: str) -> bool:
        """Provoke one fault; return False if it did not happen."""
        async with asyncio.timeout(4 * crash.DEADLINE_S):
            await load.until_all_moved(2)  # all clients continue after any fault
            self._part.rounds += 1
            hit = await self._provoke(cluster, load, fault)
            await asyncio.to_thread(self._check, cluster, load)
            await self._all_run(cluster)
        if hit:
            self._part.hits += 1
            self._part.hits_of[fault] += 1
        return hit

    async def _provoke(self, cluster: Several, load: Load, fault: str) -> bool:
        model = self._rng.choice((FLOW, LAB))
        owner = cluster.node_at((await asyncio.to_thread(cluster.owner, model)).address)
        if fault in KILLS:
            return await self._kill_at(cluster, owner, fault)
        if fault == RANDOM:
            await self._some_answers(load)
            owner.kill()
            await owner.wait()
        elif fault == DUEL:
            await self._duel(cluster, owner, model)
        elif fault == PAUSED:
            await self._pause(cluster, owner, load)
        elif fault == RESTARTED:
            assert self._engine.restart
            await asyncio.to_thread(self._engine.restart)
        else:
            await self._disturb(cluster.nodes.index(owner), fault, load)
        return True

    async def _kill_at(self, cluster: Several, owner: ServerChild, seam: str) -> bool:
        """Kill whichever node passes the seam; first bring a node to it."""
        self._failpoints.plan(seam, self._rng.randint(1, KILLS[seam]))
        if seam in CLAIMS:
            owner.kill()
            await owner.wait()
        elif seam in LEAVING:
            with contextlib.suppress(ServerFailed):
                await owner.stop(crash.DEADLINE_S)
        try:
            async with asyncio.timeout(HIT_S):
                while not self._failpoints.hit:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            return self._failpoints.withdraw()
        if seam not in TRAINER:  # the one that was hit may still be dying
            await self._are_dead(cluster, 1 + (seam in CLAIMS))
        return True

    async def _are_dead(self, cluster: Several, count: int) -> None:
        async with asyncio.timeout(HIT_S):
            while sum(not node.running for node in cluster.nodes) < count:
                await asyncio.sleep(0.01)

    async def _duel(self, cluster: Several, owner: ServerChild, model: str) -> None:
        """Kill an owner while clients ask both other nodes for its model: what they are told fits one owner."""
        others = [node.grpc for node in cluster.nodes if node is not owner]
        async with freshet.connect(others[0]) as one, freshet.connect(others[1]) as two:
            owner.kill()
            found = await asyncio.gather(one.get_model(model), two.get_model(model))
        await owner.wait()
        claims = await asyncio.to_thread(cluster.claims, model)
        if len({epoch for epoch, _ in claims}) < len(claims):
            self._part.wrong.append(f"an epoch was claimed twice: {claims}")
        for each in found:
            if (each.epoch, each.node) not in claims:
                self._part.wrong.append(f"{each.node} served in epoch {each.epoch}; claims: {claims}")

    async def _pause(self, cluster: Several, owner: ServerChild, load: Load) -> None:
        """Stop an owner until others have its shards, and let it come back."""
        before = {model: cluster.owner(model) for model in (FLOW, LAB)}
        os.kill(owner.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(crash.DEADLINE_S):
                while any(cluster.owner(model) == at for model, at in before.items() if at.address == owner.grpc):
                    await asyncio.sleep(0.05)
            await load.until_all_moved(2)
        finally:
            os.kill(owner.pid, signal.SIGCONT)

    async def _disturb(self, node: int, fault: str, load: Load) -> None:
        """Let the connection between one node and the store do wrong."""
        proxy = self._engine.proxies[node]
        if fault == CUT:
            proxy.cut()
            await asyncio.sleep(self._rng.uniform(0.1, 3.0))
            proxy.flow()
        elif fault == STALLED:
            proxy.stall(5.0)
        elif fault == UNSURE:
            proxy.lose_answers(3)
        else:
            proxy.fail_after_put(3)
        await self._some_answers(load)

    async def _some_answers(self, load: Load) -> None:
        for _ in range(self._rng.randint(1, 60)):
            await load.next_answer()

    async def _all_run(self, cluster: Several) -> None:
        """Start the nodes that have died."""
        dead = [node for node in cluster.nodes if not node.running]
        if dead:
            await asyncio.sleep(self._rng.uniform(0.0, AWAY_S))
        for node in dead:
            await node.wait()
            await node.start()

    # ---- what must hold

    def _chunks(self, cluster: Several) -> list[Chunk]:
        return cluster.chunks(FLOW, 1) + cluster.chunks(LAB, 2)

    def _check(self, cluster: Several, load: Load) -> None:
        """Compare the acknowledgements of the clients with the store's journals."""
        durable = [(told, told.durable) for told in load.told]
        labels, windows = set(load.labels), load.windows
        chunks = self._chunks(cluster)
        lost = []
        for told, seq in durable:
            kept = replay.last_seqs(chunks, told.model).get(told.stream, 0)
            lost += [f"{told.stream}: tick {n}" for n in range(kept + 1, seq + 1)]
        counted = verify.count(chunks, load.lab.model, 1 << 62)
        lost += [f"label {seq}" for seq in labels if (load.lab.stream, seq) not in counted.labels]
        if len(counted.windows) < windows:
            lost.append(f"windows: {windows} acknowledged, {len(counted.windows)} in the journal")
        self._part.lost += len(lost)
        self._part.wrong += lost[:5]

    def _at_end(self, cluster: Several, load: Load) -> None:
        chunks = self._chunks(cluster)
        self._part.acknowledged += load.acknowledged
        lost = verify.missing(chunks, load)
        self._part.lost += len(lost)
        self._part.wrong += lost[:5]
        files = {}
        for model, name in ((1, FLOW), (2, LAB)):
            folder, own = cluster.folder_of(name), cluster.number(name)
            files[model] = replay.Files.of(folder, own)
            learned = [verify.saved(path).get(own) for path in cluster.checkpoints(name)]
            # None: each trainer that had the model was restarting when its node left, and nothing was due to be saved
            # before. What it had learned is compared by the versions that answered.
            if newest := max(filter(None, learned), key=lambda hosted: hosted.offset, default=None):
                newest.number = model
                verify.learning(self._part, chunks, files[model], newest)
            redone = cluster.taken_again(name, REDONE)
            for told in load.told:
                if told.model == model:
                    told.redone |= redone.get(told.stream, set())
        verify.answers(self._part, chunks, files, load.told)


async def rounds(folder: Path, engine: str, faults: Sequence[str], seed: int) -> Part:
    """Provoke these faults, in episodes of EPISODE, on an engine of ENGINES."""
    rng, part = random.Random(seed), Part()
    for number, first in enumerate(range(0, len(faults), EPISODE)):
        here = folder / f"{engine}-{number}"
        here.mkdir(parents=True)
        with ENGINES[engine](here) as made:
            await Episode(here, made, part, rng).run(faults[first : first + EPISODE])
        if part.good:
            shutil.rmtree(here)
        show(f"{engine}: {part.hits} faults of {len(faults)}")
    answered = part.numbers["answers compared"]
    part.summary = f"{part.hits} faults of {len(part.hits_of)} kinds; {answered} answers compared with the oracle"
    return part


def plan(engine: str, times: int, seed: int) -> list[str]:
    """Return every fault that the engine can have, each so often, in an order drawn from the seed."""
    faults = [*KILLS, RANDOM, PAUSED, DUEL]
    faults += OF_PROXY if engine == "objects" else OF_PROXY[:3] if engine == "postgres" else ()
    faults += [RESTARTED] if engine == "postgres" else []
    rng = random.Random(seed)
    return [fault for _ in range(times) for fault in rng.sample(faults, len(faults))]


def run(folder: Path, quick: bool) -> Part:
    """Run. Quick: every fault once on a folder. Full: ten times on each engine."""
    parts = [asyncio.run(mutants.every_mutant(folder / "mutants", cluster_mutants.MUTANTS))]
    if not quick:
        parts.append(asyncio.run(cluster_losses.one_in_many_is_refused(folder / "losses")))
    for engine in ["folder"] if quick else ENGINES:
        parts.append(asyncio.run(rounds(folder, engine, plan(engine, 1 if quick else 10, seed=0), seed=0)))
    return sum_of(parts)


def sum_of(parts: Sequence[Part]) -> Part:
    """Return the findings of several engines together."""
    total = Part(summary="; ".join(part.summary for part in parts))
    for part in parts:
        for name in NUMBERS:
            setattr(total, name, getattr(total, name) + getattr(part, name))
        total.wrong += part.wrong
        total.hits_of += part.hits_of
        total.mutants_caught += part.mutants_caught
        total.mutants_survived += part.mutants_survived
    return total
