"""A real Prometheus beside a server: it scrapes, evaluates the rules in deploy/, and is asked as Grafana asks it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.ports import free_port

DEADLINE_S = 240.0  # for a Prometheus that scrapes twice a second, beside other work
PAUSE_S = 0.05  # between two questions
DEPLOYED = ROOT / "deploy" / "prometheus"
OFTEN = "500ms"  # between two scrapes
PROGRAM = shutil.which("prometheus")

needs_prometheus = pytest.mark.skipif(PROGRAM is None, reason="prometheus is not there (Debian: prometheus)")


class Prometheus:
    """One that runs. Methods raise what urllib raises, TimeoutError where nothing comes."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def get(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer of its HTTP API."""
        url = f"{self._url}{path}?{urllib.parse.urlencode(parameters)}"

        def ask() -> Any:
            with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
                return answer.read()

        return json.loads(await asyncio.to_thread(ask))["data"]

    async def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series, now. Raises ValueError with what Prometheus says of a wrong expression."""
        try:
            data = await self.get("/api/v1/query", query=expression)
        except urllib.error.HTTPError as error:
            raise ValueError(f"{expression}: {error.read().decode()}") from error
        return [(series["metric"], float(series["value"][1])) for series in data["result"]]

    async def rules(self) -> list[dict[str, Any]]:
        """The rules, with the health of their last evaluation."""
        groups = (await self.get("/api/v1/rules"))["groups"]
        return [rule for group in groups for rule in group["rules"]]

    async def until_ready(self) -> None:
        """Return when it takes queries."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                with contextlib.suppress(OSError, ValueError):
                    if await self.query("vector(1)"):
                        return
                await asyncio.sleep(PAUSE_S)


def deployed(http: str, files: Mapping[str, Path] | None = None) -> str:
    """The configuration in deploy/ for a server at HOST:PORT, scraped often. files: what stands for the token and the
    CA that its comments name; given, the lines for access and TLS are no comments any more."""
    text = (DEPLOYED / "prometheus.yml").read_text()
    if files:
        text = re.sub(r"^    # ( *\w+:( \S+)?)$", r"    \1", text, flags=re.MULTILINE)
    places = {"freshet:8301": http, "15s": OFTEN, "alerts.yml": DEPLOYED / "alerts.yml", **(files or {})}
    for there, here in places.items():
        assert there in text
        text = text.replace(there, str(here))
    return text


@contextlib.asynccontextmanager
async def scraping(folder: Path, config: str) -> AsyncIterator[Prometheus]:
    """A Prometheus with this configuration; it is stopped at the end."""
    assert PROGRAM
    (folder / "prometheus.yml").write_text(config)
    address = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            PROGRAM, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={address}", stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        prometheus = Prometheus(f"http://{address}")
        await prometheus.until_ready()
        yield prometheus
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), DEADLINE_S)
