"""Where files of tests go whose claims are not about a disk: in memory, where a sync costs nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SHM = Path("/dev/shm")
ROOM = 1 << 30  # bytes that must be free: a container's may be tiny


def folder() -> Path | None:
    """Return a folder in memory with room for a test's files, None where there is none: `dir` of tempfile's functions.

    The caller removes what it makes there.
    """
    return SHM if os.access(SHM, os.W_OK) and shutil.disk_usage(SHM).free >= ROOM else None


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """An empty folder, in memory where there is room; removed after the test. A conftest imports it."""
    with tempfile.TemporaryDirectory(prefix="freshet-", dir=folder()) as made:
        yield Path(made)
