"""Every query of the dashboard and every alert, on a real Prometheus that scrapes a server with all kinds of load."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import grpc
import numpy as np
import pytest

import freshet
from docs.generate._panels import panels
from freshet.v1 import training_pb2
from service.programs.backtest.child import ServerChild
from tests.journeys.prometheus import DEADLINE_S, PAUSE_S, Prometheus, deployed, needs_prometheus, scraping
from tests.journeys.raw import RawLearn, RawStream

# Anchors soon, so that rollbacks have one to go to; streams soon leave memory; snapshots and checkpoints often.
SETTINGS = {
    "score_every": 1, "anchor_labels": 32, "anchor_scores": 1, "snapshot_s": 0.5, "idle_s": 0.5,
    "checkpoint_chunks": 4, "cool_down_labels": 8,
}  # fmt: skip
LOAD_S = 240.0


def queries(expressions: Iterable[str]) -> list[str]:
    """What Grafana sends where all tenants and models are chosen."""
    chosen = {"$__rate_interval": "20s", "$tenant": ".*", "$model": ".*"}
    out = []
    for expression in expressions:
        for variable, value in chosen.items():
            expression = expression.replace(variable, value)
        out.append(expression)
    return out


async def unanswered(prometheus: Prometheus, asked: Iterable[str]) -> list[str]:
    """Those of the queries that have no finite value now. (A model that rests has no quantile of its last seconds.)"""
    empty = []
    for query in asked:
        values = [value for _, value in await prometheus.query(query)]
        assert not any(map(math.isinf, values)), (query, values)
        if not any(map(math.isfinite, values)):
            empty.append(query)
    return empty


@contextlib.asynccontextmanager
async def loaded(client: freshet.Client, channel: grpc.aio.Channel) -> AsyncIterator[None]:
    """All kinds of load until left; a load that fails fails the test."""
    await client.create_model("steady", ["x", "y"], hidden=8)
    await client.create_model("drifting", ["x"], hidden=4, clip=1e-3, intervals=[0.9])
    await client.create_model("large", ["x"], hidden=512, learn=False)
    await client.create_model("labelled", ["x"], task="regress", targets=["q"], hidden=4)
    async with asyncio.TaskGroup() as group:
        loads = (steady(client), drifting(client), labels(channel), hands(client), large(client))
        tasks = [group.create_task(load) for load in loads]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def steady(client: freshet.Client) -> None:
    """Two channels, a stream after another."""
    for number in range(10**6):
        t = np.arange(50)
        rows = np.stack([np.sin(t / 3 + number), np.cos(t / 5)], axis=1)
        async with client.stream("steady", f"pump-{number % 20}", close_s=DEADLINE_S) as stream:
            async for _ in stream.forecasts(rows):
                pass


async def drifting(client: freshet.Client) -> None:
    """A wave whose noise grows for good."""
    rng, level = np.random.default_rng(0), 0.01
    async with client.stream("drifting", "river", close_s=DEADLINE_S) as stream:
        while True:
            async for _ in stream.forecasts(np.sin(np.arange(100) / 3) + rng.normal(0, level, 100)):
                pass
            level = min(1.0, level * 1.2)


async def large(client: freshet.Client) -> None:
    """Packed ticks of a model whose steps are too large for the loop."""
    names = [f"mill-{number}" for number in range(64)]
    async with client.mux("large", close_s=DEADLINE_S) as mux:
        while True:
            await mux.step(names, np.zeros((len(names), 1)))


async def labels(channel: grpc.aio.Channel) -> None:
    """Labels that are late, repeated, in conflict, too late, unknown; windows, twice; ticks refused and repeated."""
    for number in range(1, 10**6):
        name = f"vat-{number}"
        async with RawStream(channel, "labelled", name) as stream:
            for seq in range(1, 31):
                await stream.tick(seq, [float(seq)])
            assert (await stream.tick(30, [30.0])).HasField("forecast")
            assert (await stream.tick(99, [1.0])).HasField("refused")
            async with RawLearn(channel, "labelled", "camera", training_pb2.LearnHello.DURABLE) as call:
                for seq, y in ((20, 1.0), (20, 1.0), (20, 2.0), (21, 3.0), (22, 5.0)):
                    await call.say(label=training_pb2.StreamLabel(stream=name, seq=seq, y=[y]))
                rows = np.ones(9, "<f4").tobytes()
                for _ in range(2):
                    await call.say(window=training_pb2.Window(window_seq=number, steps=9, x=rows, y=rows))
                await call.until(labels=5, windows=2)


async def hands(client: freshet.Client) -> None:
    """Somebody rolls back, pauses and resumes, as soon as there is a version to roll back from."""
    async for event in client.watch("drifting"):
        if event.kind == freshet.EventKind.PUBLISHED:
            await client.rollback("drifting")
            await client.pause("drifting")
            await client.resume("drifting")


@pytest.mark.long
@pytest.mark.timeout(400)  # seven seconds, but each panel's query waits for a busy machine
@needs_prometheus
async def test_every_panel_shows_numbers_and_every_alert_can_be_evaluated(
    tmp_path: Path, server: ServerChild, client: freshet.Client, channel: grpc.aio.Channel
):
    asked = queries(expression for panel in panels() for expression, _ in panel.queries)
    async with scraping(tmp_path, deployed(server.http)) as prometheus, loaded(client, channel):
        empty = asked
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOAD_S):
                while empty:
                    await asyncio.sleep(PAUSE_S)
                    empty = await unanswered(prometheus, empty)
        assert not empty
        still = await unanswered(prometheus, asked)
        renamed = [query.replace("freshet_version_anchor", "freshet_version_anker") for query in asked]
        mutant = await unanswered(prometheus, renamed)
        rules = await prometheus.rules()

    assert not still, "once answered, always answered"
    assert len(mutant) == 1, "a panel with a renamed metric is found"
    assert "freshet_version_anker" in mutant[0]
    assert len(rules) == 9
    assert [rule["health"] for rule in rules] == ["ok"] * 9, rules
    print(f"{len(panels())} panels, {len(asked)} queries, {len(rules)} alerts")
