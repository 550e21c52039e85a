"""The dashboard and the alerts of a cluster, on a real Prometheus that scrapes a real node with some load."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

import freshet
from docs.generate import _cluster
from service.programs.backtest.child import ServerChild
from tests.conftest import ROOT
from tests.journeys.conftest import QUICK
from tests.journeys.prometheus import DEADLINE_S, DEPLOYED, OFTEN, PAUSE_S, needs_prometheus, scraping
from tests.journeys.test_dashboard import queries, unanswered

TARGETS = '["node1:8301", "node2:8301", "node3:8301"]'
RULES = 15
OF_THE_MACHINE = {"FreshetForecastsSlow", "FreshetDisk", "FreshetStoreSlow"}  # true of one that is busy


def deployed(http: str) -> str:
    """The configuration in deploy/cluster for one node at HOST:PORT, scraped often."""
    text = (ROOT / "deploy" / "cluster" / "prometheus.yml").read_text()
    places = {TARGETS: f'["{http}"]', "15s": OFTEN} | {
        f"- {name}": f"- {DEPLOYED / name}" for name in ("alerts.yml", "cluster.yml")
    }
    for there, here in places.items():
        assert there in text
        text = text.replace(there, here)
    return text


@contextlib.asynccontextmanager
async def a_node(folder: Path) -> AsyncIterator[ServerChild]:
    """One node over a store in a folder, with four models and a stream of each that ticks until the end."""
    settings = {**QUICK, "store": f"file://{folder / 'store'}", "heartbeat_s": 0.3, "image_s": 1.0}
    server = ServerChild(folder / "data", folder / "log", settings=settings)
    async with server as node, freshet.connect(node.grpc) as client:
        load = [asyncio.create_task(ticks(client, f"flow-{number}")) for number in range(4)]
        try:
            yield node
        finally:
            for task in load:
                task.cancel()
            ended = await asyncio.gather(*load, return_exceptions=True)
            assert all(isinstance(error, asyncio.CancelledError) for error in ended), ended


async def ticks(client: freshet.Client, model: str) -> None:
    """Ticks of one stream, until cancelled."""
    await client.create_model(model, ["x"], hidden=4)
    async with client.stream(model, "pump", close_s=DEADLINE_S) as stream:
        while True:
            async for _ in stream.forecasts(np.sin(np.arange(50) / 3)):
                pass


@pytest.mark.long
@needs_prometheus
async def test_every_panel_of_a_cluster_shows_numbers_and_no_alert_is_true_of_a_node_that_is_well(tmp_path: Path):
    asked = [
        query.replace("$job", ".*")
        for query in queries(expression for panel in _cluster.panels() for expression, _ in panel.queries)
    ]
    async with a_node(tmp_path) as node, scraping(tmp_path, deployed(node.http)) as prometheus:
        empty = asked
        async with asyncio.timeout(DEADLINE_S):
            while empty:
                await asyncio.sleep(PAUSE_S)
                empty = await unanswered(prometheus, empty)
        renamed = [query.replace("freshet_shard_epoch", "freshet_shard_epoque") for query in asked]
        mutant = await unanswered(prometheus, renamed)
        rules = await prometheus.rules()
        async with asyncio.timeout(DEADLINE_S):  # it may have been slow to claim its shards
            while any([await prometheus.query(rule["query"]) for rule in rules if rule["name"] not in OF_THE_MACHINE]):
                await asyncio.sleep(PAUSE_S)

    assert len(mutant) == 1, "a panel with a renamed metric is found"
    assert [rule["health"] for rule in rules] == ["ok"] * RULES, rules
