"""One browser for all tests of the page, and a fresh profile for each test."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.journeys.page.living import Living
from tests.journeys.page.looking import Looking

CHROMIUM = shutil.which("chromium")
# A container has a small /dev/shm, and root may not use the sandbox. Without --disable-gpu a software renderer starts.
FLAGS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needs = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not there (Debian: chromium)")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(needs)
            item.add_marker(pytest.mark.long)
            item.add_marker(pytest.mark.timeout(900))  # a busy machine needs minutes for a page


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """A running browser."""
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        await started.close()


@pytest_asyncio.fixture(loop_scope="session")
async def looking(browser: Browser) -> AsyncIterator[Looking]:
    """A browser that nothing is stored in; at the end its console must be clean, and no request have left."""
    async with Looking(browser) as seen:
        yield seen
        seen.check()


@pytest_asyncio.fixture(loop_scope="session")
async def living(server, client, name) -> AsyncIterator[Living]:
    """A model of the test's own whose stream `river` moves until the test ends."""
    async with Living(client, name) as moving:
        yield moving
