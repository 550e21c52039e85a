"""Files of the tests of the service are in memory: they claim which calls are made and in which order, not what a disk
does, and they must not depend on how long one takes to sync."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import memory


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """An empty folder, in memory where there is room; removed after the test."""
    with tempfile.TemporaryDirectory(prefix="freshet-", dir=memory.folder()) as made:
        yield Path(made)
