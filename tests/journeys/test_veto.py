"""A candidate made worse on purpose, by a negative learning rate: it is vetoed, rolled back, and forecasts go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import freshet
from freshet import EventKind, ModelEvent
from service.common.gate import Gate, GateSettings
from service.engine.export import read_weights
from service.journal.records import Chunk, Rollback
from service.streams.answers import Answer
from tests.journeys import crash
from tests.journeys.crash import Array, walk, within
from tests.oracles import replay
from tests.service.one_process import world

COOL_DOWN = 64
DEADLINE_S = 240.0  # for hundreds of verdicts
SETTINGS = {"score_every": 1, "cool_down_labels": COOL_DOWN, "anchor_labels": 10**6, "snapshot_s": 3600}
GATE = GateSettings(score_every=1, cool_down_labels=COOL_DOWN, anchor_labels=10**6)
# Learning rates that climb the loss: some hundred labels until the gate is sure, and some ten. Of the network alone: a
# mixture takes its weight away from a network that gets worse, so that there is nothing to veto.
GENTLY, STEEPLY = -0.002, -0.3
# While evidence gathers, versions that are worse do serve. Measured: 1.1 to 1.7 times persistence's squared error.
MUCH_WORSE = 3.0


@dataclass
class Seen:
    """What a client saw: forecasts by tick, and events as they came."""

    x: Array
    y: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    events: list[ModelEvent] = field(default_factory=list)

    def of(self, kind: EventKind) -> list[ModelEvent]:
        return [event for event in self.events if event.kind == kind]

    def against_persistence(self) -> float:
        """Squared error of the forecasts over that of the last value."""
        ours = np.array(self.y[:-1]) - self.x[1 : len(self.y), 0]
        theirs = np.diff(self.x[: len(self.y), 0])
        return float((ours**2).mean() / (theirs**2).mean())


async def watch(client: freshet.Client, seen: Seen, ready: asyncio.Event) -> None:
    events: AsyncIterator[ModelEvent] = client.watch("bad")
    ready.set()
    async for event in events:
        seen.events.append(event)


async def drive(
    client: freshet.Client, seen: Seen, rate: float, until: Callable[[Seen], bool] = lambda seen: False
) -> None:
    """Send ticks, judged as they go, until there are no more or it is so."""
    await client.create_model("bad", channels=["x"], hidden=8, learning_rate=rate, forecaster="network")
    ready = asyncio.Event()
    watching = asyncio.create_task(watch(client, seen, ready))
    await ready.wait()
    try:
        async with client.stream("bad", "pump") as stream:
            async with asyncio.timeout(DEADLINE_S):
                async for forecast in stream.forecasts(seen.x, max_staleness=32):
                    seen.y.append(float(forecast.y[0, 0]))
                    seen.versions.append(forecast.version)
                    if until(seen):
                        break
            await within(stream.durable())
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_a_candidate_that_gets_worse_is_vetoed_and_rolled_back_and_published_again_after_the_cool_down(tmp_path):
    seen = Seen(walk(20_000, 4))
    async with crash.a_server(tmp_path, **SETTINGS) as server:
        async with freshet.connect(server.grpc) as client:
            await drive(client, seen, GENTLY, until=two_rollbacks_and_a_publish)
            anchor = (await client.get_model("bad")).anchor
        files = replay.Files.of(server.data)
    check_events(seen)
    assert anchor == 1
    assert seen.against_persistence() < MUCH_WORSE
    check_served_by_the_anchor_while_cooling_down(seen)
    check_learner_returned(list(replay.read(tmp_path / "data" / "journal")), files)


async def test_a_candidate_that_falls_apart_at_once_hardly_ever_serves(tmp_path):
    seen = Seen(walk(400, 4))
    # Verdicts by count alone: the first one must not come before there is anything to judge by.
    async with crash.a_server(tmp_path, **SETTINGS | {"publish_labels": 32, "publish_s": 3600}) as server:
        async with freshet.connect(server.grpc) as client:
            await drive(client, seen, STEEPLY)
            assert (await client.get_model("bad")).champion == 1
            assert EventKind.VETOED in {event.kind for event in await client.history("bad")}
        files = replay.Files.of(server.data)
    assert len(seen.y) == 400
    assert seen.against_persistence() < 1.5
    check_learner_returned(list(replay.read(tmp_path / "data" / "journal")), files)


def two_rollbacks_and_a_publish(seen: Seen) -> bool:
    kinds = [event.kind for event in seen.events]
    back = [n for n, kind in enumerate(kinds) if kind == EventKind.ROLLED_BACK]
    return len(back) >= 2 and EventKind.PUBLISHED in kinds[back[-1] :]


def check_events(seen: Seen) -> None:
    """Vetoes say why and with what numbers; a rollback names the anchor; what cools down is vetoed, then published."""
    vetoed, rolled_back = seen.of(EventKind.VETOED), seen.of(EventKind.ROLLED_BACK)
    assert {event.reason for event in vetoed} == {"worse than the anchor", "cooling down after a rollback"}
    assert all(e.numbers["evidence"] >= GATE.worse_evidence for e in vetoed if e.reason == "worse than the anchor")
    assert all(e.numbers["evidence"] >= GATE.worse_evidence and e.numbers["labels"] for e in rolled_back)
    assert {event.version for event in rolled_back} == {1}
    assert {event.reason for event in rolled_back} == {"worse than the anchor"}


def check_served_by_the_anchor_while_cooling_down(seen: Seen) -> None:
    """From a rollback to the next version, forecasts are those of version 1: with its zero readout, persistence."""
    versions = np.array(seen.versions)
    back = np.flatnonzero((versions[:-1] != 1) & (versions[1:] == 1)) + 1
    assert len(back) >= 2
    for start in back:
        served = versions[start:] == 1
        length = len(served) if served.all() else int(served.argmin())
        assert length >= COOL_DOWN // 2 or served.all()
        cooling = slice(start, start + length)
        np.testing.assert_array_equal(np.array(seen.y[cooling], np.float32), seen.x[cooling, 0])


def check_learner_returned(chunks: list[Chunk], files: replay.Files) -> None:
    """Right after each rollback record the learner holds the anchor's weights, bit for bit, and then learns on."""
    found = 0
    for chunk in chunks:
        for n, record in enumerate(chunk.records):
            if not isinstance(record, Rollback):
                continue
            found += 1
            upto = Chunk(chunk.model, chunk.offset, chunk.learn_every, chunk.records[: n + 1])
            hosted = replay.learned([*(c for c in chunks if c.offset < chunk.offset), upto], files, GATE, upto.end)
            anchor = read_weights(hosted.learner.network, files.weights[record.version])
            np.testing.assert_array_equal(hosted.learner.weights.flat, anchor)
            assert hosted.gate.cooling == COOL_DOWN
    assert found, "the journal holds the rollbacks"
    after = replay.learned(chunks, files, GATE, chunks[-1].end)
    assert after.learner.weights.flat.tobytes() != anchor.tobytes()


# ---- the gate's mutants, with both processes in one


async def in_one_process(folder: Path, ticks: int) -> tuple[float, set[str]]:
    """The same candidate: squared error against persistence, and the verdicts."""
    seen, verdicts = Seen(walk(ticks, 4)), set()
    async with world(folder / "data", publish_labels=16, **SETTINGS) as both:
        model = await both.model("bad", hidden=8, head_init=0.0, learning_rate=GENTLY, forecaster="network")
        session = both.open(model, "pump")
        for n, (x,) in enumerate(seen.x.tolist()):
            answer: Answer = await both.tick(model, session, x)
            seen.y.append(float(np.frombuffer(answer.y, np.float32)[0]))
            if n % 8 == 7:
                verdicts |= {message.verdict for message in await both.learn()}
    return seen.against_persistence(), verdicts


@pytest.mark.long  # the gate itself: the two journeys above
async def test_the_gate_is_what_keeps_the_forecasts_good(tmp_path, monkeypatch):
    ratio, verdicts = await in_one_process(tmp_path / "gate", 600)
    assert ratio < MUCH_WORSE
    assert "veto" in verdicts

    monkeypatch.setattr(Gate, "worse", False)  # a mutant that never says worse
    ratio, verdicts = await in_one_process(tmp_path / "no gate", 600)

    assert "veto" not in verdicts
    assert ratio > MUCH_WORSE
