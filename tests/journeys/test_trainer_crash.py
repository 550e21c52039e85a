"""The trainer is killed, again and again: every tick is answered, and what was learned is what the journal says."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
from pathlib import Path

import pytest

import freshet
from service.programs.backtest.child import ServerChild
from service.trainer.checkpoint import Checkpoints
from service.trainer.hosting import HostedModel
from tests.journeys import crash
from tests.journeys.crash import GATE, SMALL, kill_trainer, trainer_of, walk, within
from tests.journeys.scraped import scrape
from tests.oracles import replay
from tests.service.histories import digest

NO_SNAPSHOT = {"snapshot_s": 3600}  # nothing is pruned: the fold from the journal's start needs every contender


async def kills(
    server: ServerChild, client: freshet.Client, stream: freshet.Stream, times: int, rng: random.Random
) -> int:
    """Kill the trainer at random moments: learning, publishing, writing a checkpoint, starting. Returns the ticks sent.

    The clock is the stream's ticks; one in three kills meets a process that has just been started. Afterwards it
    continues until a version has become the anchor: how many verdicts there were depends on the machine.
    """
    x = walk(1_000_000, 5)
    sent = 0

    async def step() -> None:
        nonlocal sent
        forecast = await within(stream.step(x[sent]))
        sent += 1
        assert forecast.seq == sent

    for _ in range(times):
        if rng.random() < 0.67:
            await within(stream.wait_judged(sent))  # it is up, and has caught up
            for _ in range(rng.randrange(60)):
                await step()
        killed = 0
        while not killed:
            await step()
            killed = kill_trainer(server)
        while trainer_of(server) in (0, killed):  # answers go on while there is none
            await step()
    await within(stream.wait_judged(sent))
    while (await client.get_model("flow")).anchor == 1:
        await step()
        await within(stream.wait_judged(sent))
    return sent


async def check_weights(data: Path, files: replay.Files, ticks: int) -> HostedModel:
    """The checkpoint equals an uninterrupted fold of the journal, up to the offset that it names; returns that."""
    checkpoints = Checkpoints(data / "trainer.db")
    _, models = checkpoints.load(GATE)
    checkpoints.close()
    saved = models[1]
    assert saved.learner.counts.ticks == ticks
    chunks = list(replay.read(data / "journal"))

    whole = replay.learned(chunks, files, GATE, saved.offset)

    assert saved.learner.weights.flat.tobytes() == whole.learner.weights.flat.tobytes(), "the weights differ"
    assert digest(saved) == digest(whole)
    return whole


async def journey(folder: Path, times: int, seed: int, **settings: object) -> None:
    async with crash.a_server(folder, **NO_SNAPSHOT, **settings) as server:
        async with freshet.connect(server.grpc) as client:
            await client.create_model("flow", **SMALL)
            async with client.stream("flow", "pump") as stream:
                sent = await kills(server, client, stream, times, random.Random(seed))
                assert stream.reconnects == 0
        restarts = (await scrape(server.http)).total("freshet_trainer_restarts_total")
        assert restarts == times
        files = replay.Files.of(server.data)
    whole = await check_weights(folder / "data", files, sent)
    assert whole.anchored, "the history has to be long enough to move the anchor"


async def test_a_trainer_killed_at_eight_random_moments_learns_what_an_uninterrupted_one_would_have(tmp_path):
    await journey(tmp_path, times=8, seed=0)


FORGETS_THE_OPTIMIZER = """
from service.trainer.hosting import HostedModel
unpack = HostedModel.unpack.__func__

def forget(cls, *stored):
    hosted = unpack(cls, *stored)
    hosted.learner.optimizer_state.moments[...] = 0
    return hosted

HostedModel.unpack = classmethod(forget)
"""


@pytest.mark.long
async def test_a_trainer_that_forgets_its_optimizer_when_it_restarts_would_be_noticed(tmp_path, monkeypatch):
    crash.mutate(monkeypatch, tmp_path, FORGETS_THE_OPTIMIZER + crash.SAVES_ALWAYS)

    with pytest.raises(AssertionError, match="the weights differ"):
        await journey(tmp_path, times=8, seed=0, **crash.SAVED_ALWAYS)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_trainer_killed_at_fifty_random_moments(tmp_path):
    await journey(tmp_path, times=50, seed=1)  # `dev.py torture` kills a thousand times


async def test_a_client_that_waits_for_verdicts_goes_on_after_the_trainer_is_killed(tmp_path):
    """With max_staleness, every tick depends on a verdict; a lost one must be given again."""
    rng = random.Random(3)
    moments = {rng.randrange(30, 240) for _ in range(6)}
    async with crash.a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SMALL)
        async with client.stream("flow", "pump") as stream:
            async with asyncio.timeout(crash.DEADLINE_S):
                async for forecast in stream.forecasts(walk(250, 1), max_staleness=16):
                    assert forecast.staleness <= 16
                    if forecast.seq in moments:
                        kill_trainer(server)
            await within(stream.wait_judged(250))


async def ticks_past_a_stopped_trainer(server: ServerChild, stream: freshet.Stream, ticks: int) -> int:
    """So many ticks, all answered although the trainer is stopped after the first 200; its process."""
    x = walk(ticks, 2)
    for row in x[:200]:
        await within(stream.step(row))
    await within(stream.wait_judged(200))
    stopped = trainer_of(server)
    os.kill(stopped, signal.SIGSTOP)
    for row in x[200:]:
        await within(stream.step(row))
    return stopped


async def test_a_trainer_that_is_stopped_holds_nobody_up_and_nothing_is_lost_when_it_is_killed(tmp_path):
    async with crash.a_server(tmp_path, **NO_SNAPSHOT) as server:
        async with freshet.connect(server.grpc) as client:
            await client.create_model("flow", **SMALL)
            async with client.stream("flow", "pump") as stream:
                stopped = await ticks_past_a_stopped_trainer(server, stream, 600)
                await within(stream.durable())
                assert trainer_of(server) == stopped
                kill_trainer(server)
                await within(stream.wait_judged(600))
        files = replay.Files.of(server.data)
    await check_weights(tmp_path / "data", files, 600)


@pytest.mark.long
@pytest.mark.parametrize("watched", [True, False], ids=["watched", "mutant"])
async def test_a_trainer_that_stays_stopped_is_killed_after_a_while_and_nothing_is_lost(tmp_path, monkeypatch, watched):
    if not watched:
        crash.mutate(monkeypatch, tmp_path, "from service.common import limits\nlimits.is_overdue = lambda *_: False\n")
    async with crash.a_server(tmp_path, **NO_SNAPSHOT, trainer_hang_s=5.0) as server:
        async with freshet.connect(server.grpc) as client:
            await client.create_model("flow", **SMALL)
            async with client.stream("flow", "pump") as stream:
                stopped = await ticks_past_a_stopped_trainer(server, stream, 400)
                if not watched:
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(stream.wait_judged(400), 8)
                    assert trainer_of(server) == stopped
                    kill_trainer(server)
                await within(stream.wait_judged(400))
                assert trainer_of(server) not in (0, stopped)
                assert stream.reconnects == 0
        files = replay.Files.of(server.data)
    await check_weights(tmp_path / "data", files, 400)


async def test_a_damaged_checkpoint_is_set_aside_and_what_it_held_is_learned_again(tmp_path):
    # After every chunk: of a machine that is busy, 40 ticks may be fewer chunks than there usually are between two.
    async with crash.a_server(tmp_path, checkpoint_chunks=1) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SMALL)
        async with client.stream("flow", "pump") as stream:
            for row in walk(40, 1):
                await within(stream.step(row))
            await within(stream.wait_judged(40))
        await server.stop()
        spoil(server.data / "trainer.db")

        await server.start()

        async with client.stream("flow", "pump") as stream:
            assert stream.welcome.next_seq == 41
            for row in walk(40, 2):
                await within(stream.step(row))
            await within(stream.wait_judged(80))
        seen = await scrape(server.http)
        assert seen.total("freshet_corrupt_total", what="checkpoint") == 1
        assert seen.total("freshet_labels_learned_total", model="flow") == 78, "all but the first two, once"
        assert "is not as it was saved. It was moved to trainer.db.damaged-1" in (tmp_path / "log").read_text()


def spoil(database: Path) -> None:
    """One flipped bit in the weights of a checkpoint."""
    with sqlite3.connect(database) as sql:
        [(data,)] = sql.execute("SELECT data FROM blobs WHERE name = 'weights'").fetchall()
        sql.execute("UPDATE blobs SET data = ? WHERE name = 'weights'", (bytes([data[0] ^ 1]) + data[1:],))
    sql.close()


async def test_what_a_trainer_had_learned_and_not_published_is_published_by_the_next(tmp_path):
    """It may have put labels into its checkpoint that no verdict has named: without new ones, they are judged again."""
    silent = {"publish_labels": 1_000_000, "publish_s": 3600, "checkpoint_chunks": 1}
    async with crash.a_server(tmp_path, **silent) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SMALL)
        async with client.stream("flow", "pump") as stream:
            for row in walk(30, 1):
                await within(stream.step(row))

    async with crash.a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        async with client.stream("flow", "pump") as stream:
            await within(stream.wait_judged(30))
        assert (await client.get_model("flow")).champion == 2
