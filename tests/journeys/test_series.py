"""The number of a server's series depends on its models, not on streams."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import freshet
from service.programs.backtest.child import ServerChild
from tests.journeys import crash
from tests.journeys.scraped import Scraped, scrape, scraped_until

SETTINGS = {"score_every": 1}  # the anchor's score is there from the first chunk on
DEADLINE_S = 300.0
WAVE = 1000

MUTANT = """
from service.observe.declaring import Declare
from service.serving.opening import Opening

open_stream = Opening.open

def labelled(self, model, id, *more, **named):
    self._metrics.opened.labels(id).inc()
    return open_stream(self, model, id, *more, **named)

Opening.open, Declare.forget = labelled, lambda self, key: None
"""

Series = set[tuple[str, frozenset[tuple[str, str]]]]


def series(seen: Scraped) -> Series:
    """Every series of a scrape: its name and labels. Those of calls are bounded by methods and codes: which of these
    has come to pass is chance."""
    ours = (family for name, family in seen.families.items() if not name.startswith("grpc_server_"))
    return {(s.name, frozenset(s.labels.items())) for family in ours for s in family.samples}


async def learned(server: ServerChild, model: str, labels: int) -> Scraped:
    """Scrape once this many labels of the model are learned and none are left."""

    def done(seen: Scraped) -> bool:
        taken = seen.total("freshet_labels_learned_total", model=model)
        return taken >= labels and not seen.total("freshet_trainer_backlog_entries", model=model)

    return await scraped_until(server.http, done)


async def tick(client: freshet.Client, model: str, first: int, streams: int, ticks: int) -> None:
    """Send `ticks` ticks on each of `streams` streams, one call per stream."""
    x = np.sin(np.arange(ticks))
    async with asyncio.timeout(DEADLINE_S), client.mux(model) as mux:
        for start in range(first, first + streams, WAVE):
            ids = [f"pump-{number}" for number in range(start, min(start + WAVE, first + streams))]
            for value in x:
                await mux.step(ids, np.full(len(ids), value))


async def added(server: ServerChild, client: freshet.Client, model: str, streams: int) -> tuple[int, Series]:
    """Return the number of series with ten streams, and the series that further streams add."""
    await client.create_model(model, ["x"], hidden=4)
    await tick(client, model, first=0, streams=10, ticks=20)  # a whole window, so that there is a norm of each lag
    before = series(await learned(server, model, labels=150))
    await tick(client, model, first=10, streams=streams, ticks=2)
    after = await scraped_until(
        server.http, lambda seen: seen.total("freshet_ticks_total", model=model) == 200 + 2 * streams
    )
    assert after.total("freshet_streams", model=model) == 10 + streams
    return len(before), series(after) - before


async def left(server: ServerChild, client: freshet.Client, models: int) -> Series:
    """Return the series left by models that are created, learn and are deleted, beside one that stays."""

    async def live(model: str, labels: int) -> None:
        await tick(client, model, first=0, streams=10, ticks=20)
        await learned(server, model, labels)

    await client.create_model("stays", ["x"], hidden=4)
    await live("stays", 150)
    before = series(await scrape(server.http))
    for number in range(models):
        await client.create_model(f"goes-{number}", ["x"], hidden=4)
        await live(f"goes-{number}", 150)
        await client.delete_model(f"goes-{number}")
    await live("stays", 300)  # the trainer has said by then what it still had to say of the others
    return series(await scrape(server.http)) - before


@pytest.mark.parametrize("streams", [3000, pytest.param(100_000, marks=pytest.mark.long)])
async def test_no_stream_adds_a_series(server, client, name, streams):
    before, new = await added(server, client, name, streams)

    assert not new
    print(f"{before} series with 10 streams and with {10 + streams:,}")


async def test_deleted_models_leave_no_series(server, client):
    assert not await left(server, client, models=5)


@pytest.mark.long
async def test_a_server_that_labels_by_stream_or_forgets_no_model_would_be_detected(tmp_path, monkeypatch):
    crash.mutate(monkeypatch, tmp_path, MUTANT)
    async with crash.a_server(tmp_path, **SETTINGS) as server, freshet.connect(server.grpc) as client:
        _, of_streams = await added(server, client, "many", streams=100)
        of_models = await left(server, client, models=1)

    assert {dict(labels)["origin"] for _, labels in of_streams} == {f"pump-{number}" for number in range(10, 110)}
    assert {dict(labels).get("model") for _, labels in of_models} == {"goes-0"}
