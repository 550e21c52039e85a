"""Numbers of one model from a server's /metrics."""

from __future__ import annotations

import asyncio
import urllib.request
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from service.console.exposition import quantile
from service.console.remote import fetch
from service.programs.backtest.report import Quantiles

UPDATES = "freshet_learner_updates_total"
FRESHNESS = "freshet_label_to_serving_seconds_bucket"
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Scraped:
    """Numbers of one model; None where the server has none."""

    updates: int | None = None
    freshness_s: Quantiles = field(default_factory=Quantiles)  # p50 and p95


async def scrape(http: str, model: str) -> Scraped:
    """Read http://HOST:PORT/metrics. A server that does not answer gives an empty result."""
    try:
        text = await asyncio.to_thread(_fetch, f"http://{http}/metrics")
    except OSError:
        return Scraped()
    return parse(text, model)


def parse(text: str, model: str) -> Scraped:
    """Return the model's numbers from text in the Prometheus format."""
    families = text_string_to_metric_families(text)
    samples = [s for family in families for s in family.samples if s.labels.get("model") == model]
    updates = next((int(s.value) for s in samples if s.name == UPDATES), None)
    buckets = sorted((float(s.labels["le"]), s.value) for s in samples if s.name == FRESHNESS)
    return Scraped(updates, Quantiles(p50=quantile(buckets, 0.5), p95=quantile(buckets, 0.95)))


def _fetch(url: str) -> str:
    return fetch(urllib.request.Request(url), TIMEOUT_S)[1]
