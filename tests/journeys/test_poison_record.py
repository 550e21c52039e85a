"""A record that kills the trainer, or makes it hang, is skipped by record: everything else is learned, and served."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import freshet
from freshet import EventKind
from service.journal.records import Skip
from tests.journeys import crash
from tests.journeys.crash import SMALL, walk, within
from tests.journeys.scraped import scrape
from tests.journeys.test_trainer_crash import NO_SNAPSHOT, check_weights
from tests.oracles import replay

POISON = 666.0
# The trainer meets the end of a record that holds the marked value.
DEADLY = """
import os, time
from service.journal.records import Label, Ticks
from service.trainer import hosting

apply = hosting.HostedModel.apply

def dies(self, chunk, weights_of):
    for at, record in zip(offsets(chunk), chunk.records):
        held = record.x if isinstance(record, Ticks) else getattr(record, "y", None)
        if held is not None and at not in self.skips and (held == {poison}).any():
            {end}
    return apply(self, chunk, weights_of)

def offsets(chunk):
    at = chunk.offset
    for record in chunk.records:
        yield at
        at += hosting.entries(record)

hosting.HostedModel.apply = dies
"""
DIES, HANGS = "os._exit(13)", "time.sleep(3600)"
ALONE = {"commit_s": 0}  # what is waited for is a chunk of its own


HANG = {"trainer_hang_s": 5.0}  # a process that is only slow must not take as long


@pytest.mark.parametrize(
    ("end", "settings"),
    [pytest.param(DIES, {}, id="dies"), pytest.param(HANGS, HANG, id="hangs", marks=pytest.mark.long)],
)
async def test_a_tick_that_ends_the_trainer_is_skipped_by_record_and_all_else_is_learned(
    tmp_path, monkeypatch, end, settings
):
    crash.mutate(monkeypatch, tmp_path, DEADLY.format(poison=POISON, end=end))
    x = walk(300, 1)
    x[150] = POISON
    async with crash.a_server(tmp_path, **NO_SNAPSHOT, **ALONE, **settings) as server:
        async with freshet.connect(server.grpc) as client:
            await client.create_model("flow", **SMALL)
            await client.create_model("other", **SMALL)
            async with client.stream("flow", "pump") as stream, client.stream("other", "pump") as other:
                for row in x[:150]:
                    await within(stream.step(row))
                await within(stream.wait_judged(150))
                for n, row in enumerate(x[150:]):
                    await within(stream.step(row))  # answers go on
                    if not n:
                        await within(stream.durable())
                for row in x[:40]:
                    await within(other.step(row))
                await within(stream.wait_judged(300))
                await within(other.wait_judged(40))
                assert (stream.reconnects, other.reconnects) == (0, 0)
            events = await client.history("flow", events=500)
            [event] = [e for e in events if e.kind == EventKind.SKIPPED]
        seen = await scrape(server.http)
        files = replay.Files.of(server.data)
    chunks = list(replay.read(server.data / "journal"))
    [skip] = [r for chunk in chunks for r in chunk.records if isinstance(r, Skip)]
    assert "the trainer has died of it 3 times" in skip.reason
    assert event.reason == skip.reason
    skipped = skip.end - skip.first
    assert seen.total("freshet_entries_skipped_total", model="flow") == skipped
    assert skipped < 20, "a chunk, not more"
    assert seen.total("freshet_trainer_restarts_total") >= 3, "more where starting took too long as well"
    await check_weights(server.data, files, 300 - skipped)


async def test_a_skip_holds_after_everything_is_killed_and_its_labels_are_in_the_quarantine(tmp_path, monkeypatch):
    crash.mutate(monkeypatch, tmp_path, DEADLY.format(poison=POISON, end=DIES))
    spec: dict[str, Any] = {
        "channels": ["x"],
        "task": "regress",
        "targets": ["q"],
        "hidden": 4,
        "window": 12,
        "label_horizon": 100,
    }
    async with crash.a_server(tmp_path, snapshot_s=0.1, checkpoint_chunks=10_000, **ALONE) as server:
        async with freshet.connect(server.grpc) as client:
            await client.create_model("lab", **spec)
            async with client.stream("lab", "bench") as stream:
                for row in walk(40, 1):
                    await within(stream.step(row))
                await within(stream.durable())
                await within(stream.label(20, [POISON]))
                await within(stream.label(21, [1.0]))
                await within(skipped(client))
                await within(snapshot(server))
                server.kill()
                await server.wait()
                await server.start()
                await within(stream.label(22, [1.0]))
                await within(stream.wait_judged(40))
            held = [item async for item in client.quarantine("lab")]
        assert [(item.reason, item.seq) for item in held] == [("skipped", 20)]
        assert (await scrape(server.http)).total("freshet_trainer_restarts_total") == 0, "it knew before it came there"


async def skipped(client: freshet.Client) -> None:
    while not [event for event in await client.history("lab") if event.kind == EventKind.SKIPPED]:
        await asyncio.sleep(0.05)


async def snapshot(server) -> None:
    """Until one was taken that began now."""
    before = (await scrape(server.http)).total("freshet_snapshot_seconds_count")
    while (await scrape(server.http)).total("freshet_snapshot_seconds_count") < before + 2:
        await asyncio.sleep(0.05)
