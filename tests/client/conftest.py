"""A fake server of Mux, and a client of it; files with another server have fixtures of their own with these names."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import freshet
from tests.client.fake_mux import FakeMux


@pytest.fixture
async def fake() -> AsyncIterator[FakeMux]:
    fake = FakeMux()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def client(fake: FakeMux) -> AsyncIterator[freshet.Client]:
    async with freshet.connect(f"127.0.0.1:{fake.port}") as connected:
        yield connected
