"""A real server per test module, a real client per test. Tests share the server and differ in their model's name.

A module that needs other settings of the server says so in a global `SETTINGS`. All journeys run in one event loop:
grpc.aio's poller outlives the loop that it was started on, and complains.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

import freshet
from service.programs.backtest import child
from service.programs.backtest.child import ServerChild
from tests.journeys import preloaded
from tests.journeys.crash import UNHURRIED
from tests.journeys.raw import channel_to

child.spawn = preloaded.spawn
child.START_S = child.STOP_S = 240.0  # no test asserts how long a busy machine takes for either

# Verdicts every tenth of a second: journeys wait for several.
QUICK = UNHURRIED | {"publish_s": 0.1, "publish_labels": 16, "snapshot_s": 1.0, "drain_s": 5.0}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerChild]:
    """A started server. Whatever the tests do to it, it must still run after them, and drain to exit code 0."""
    folder = tmp_path_factory.mktemp("server")
    started = ServerChild(
        folder / "data", folder / "log", settings={**QUICK, **getattr(request.module, "SETTINGS", {})}
    )
    await started.start()
    yield started
    assert started.running, f"the server ended during the tests{started.last_words()}"
    assert await started.stop() == 0, started.last_words()
    log = (folder / "log").read_text()
    assert "Traceback" not in log, log[-4000:]


@pytest_asyncio.fixture(loop_scope="session")
async def client(server: ServerChild) -> AsyncIterator[freshet.Client]:
    """The SDK, connected to the server."""
    async with freshet.connect(server.grpc) as connected:
        yield connected


@pytest_asyncio.fixture(loop_scope="session")
async def channel(server: ServerChild) -> AsyncIterator[grpc.aio.Channel]:
    """A bare channel, for what the SDK would not send."""
    async with channel_to(server.grpc) as connected:
        yield connected


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A model name of the test's own."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower()).strip("-")
    return f"t-{words}"[-64:].lstrip("-0123456789")
