"""Run these tests in the event loop of the journeys: the poller of grpc.aio stays bound to its first loop."""

from pathlib import Path

import pytest
import pytest_asyncio

from service.programs.backtest import child
from tests.journeys import preloaded

child.spawn = preloaded.spawn


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
