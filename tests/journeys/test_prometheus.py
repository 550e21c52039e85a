"""The configuration in deploy/prometheus, read by a real Prometheus: with a token, over TLS."""

from __future__ import annotations

import asyncio
from pathlib import Path

from service.programs.backtest.child import ServerChild
from tests.client.certificates import Authority
from tests.journeys.conftest import QUICK
from tests.journeys.credentials import Entry, written
from tests.journeys.prometheus import DEADLINE_S, PAUSE_S, Prometheus, deployed, needs_prometheus, scraping


async def until_up(prometheus: Prometheus, up: int) -> None:
    """Return once the last scrape has this outcome."""
    async with asyncio.timeout(DEADLINE_S):
        while [value for _, value in await prometheus.query('up{job="freshet"}')] != [up]:
            await asyncio.sleep(PAUSE_S)


@needs_prometheus
async def test_a_server_with_tls_and_access_is_scraped_as_the_comments_say_and_with_no_other_token(tmp_path: Path):
    authority = Authority(tmp_path)
    cert, key = authority.sign("server", days=60)
    access, token = tmp_path / "access.toml", tmp_path / "token"
    access.write_text(written(Entry("scraper", "acme", "metrics"), Entry("gateway", "acme", "admin")))
    token.write_text("scraper")
    settings = QUICK | {"tls_cert": cert, "tls_key": key, "access": access}
    async with ServerChild(tmp_path / "data", tmp_path / "log", settings=settings) as server:
        files = {"/etc/prometheus/freshet.token": token, "/etc/prometheus/freshet-ca.pem": authority.pem}
        at = f"localhost:{server.http.rpartition(':')[2]}"  # the name that the certificate is for
        async with scraping(tmp_path, deployed(at, files)) as prometheus:
            await until_up(prometheus, 1)
            [ends] = [rule["query"] for rule in await prometheus.rules() if rule["name"] == "FreshetCredentials"]
            assert not await prometheus.query(ends)
            authority.sign("server", days=2)  # replaces the former one
            async with asyncio.timeout(DEADLINE_S):
                while not await prometheus.query(ends):
                    await asyncio.sleep(PAUSE_S)
            token.write_text("gateway")  # of another tenant's admin, which may not see all tenants
            await until_up(prometheus, 0)
