"""A store in a folder, with the faults that a test asks for.

Files are in memory: these tests claim what is written and in which order, not what a disk does, and they must not
depend on how long one takes to sync. A node that is killed leaves them as on a disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.cluster.store.directory import Directory
from tests import memory
from tests.cluster.faulty import Faulty


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """An empty folder, in memory where there is room; removed after the test."""
    with tempfile.TemporaryDirectory(prefix="freshet-", dir=memory.folder()) as made:
        yield Path(made)


@pytest.fixture
def store(tmp_path) -> Faulty:
    return Faulty(Directory(f"file://{tmp_path / 'store'}", tmp_path / "store"))
