"""A store in a folder, with the faults that a test asks for."""

from __future__ import annotations

import pytest

from service.cluster.store.directory import Directory
from tests.cluster.faulty import Faulty


@pytest.fixture
def store(tmp_path) -> Faulty:
    return Faulty(Directory(f"file://{tmp_path / 'store'}", tmp_path / "store"))
