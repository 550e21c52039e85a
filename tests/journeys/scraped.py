"""A server's /metrics, read as Prometheus reads it."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.journeys.raw import DEADLINE_S

PAUSE_S = 0.02  # between two scrapes, each of which takes both sides milliseconds that others wait for


@dataclass(frozen=True)
class Scraped:
    """One scrape."""

    families: dict[str, Metric]

    def total(self, name: str, **labels: str) -> float:
        """Sum over a sample's series that have these labels; 0 without any."""
        samples = (s for family in self.families.values() for s in family.samples if s.name == name)
        return sum(s.value for s in samples if labels.items() <= s.labels.items())

    def label_values(self, label: str | None = None) -> set[str]:
        """Every value of a label, or of all labels, bucket bounds left out."""
        samples = (s for family in self.families.values() for s in family.samples)
        return {v for s in samples for k, v in s.labels.items() if k != "le" and label in (None, k)}


def get(url: str, token: str | None = None) -> tuple[int, str]:
    """Status and body, redirects not followed."""
    request = urllib.request.Request(url, headers={} if token is None else {"Authorization": f"Bearer {token}"})

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *request: object) -> None:
            return None

    try:
        with urllib.request.build_opener(Stay).open(request, timeout=DEADLINE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def scrape(http: str, token: str | None = None) -> Scraped:
    """Read http://HOST:PORT/metrics, which must answer 200."""
    status, text = await asyncio.to_thread(get, f"http://{http}/metrics", token)
    assert status == 200, text
    return Scraped({family.name: family for family in text_string_to_metric_families(text)})


async def scraped_until(http: str, true: Callable[[Scraped], bool]) -> Scraped:
    """Scrape until it is so. Raises TimeoutError with what was seen last as a note."""
    seen = await scrape(http)
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not true(seen):
                await asyncio.sleep(PAUSE_S)
                seen = await scrape(http)
    except TimeoutError as error:
        error.add_note(f"last seen: {sorted(seen.families)}")
        raise
    return seen
