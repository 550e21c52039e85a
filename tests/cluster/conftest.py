"""A store in a folder, with the faults that a test asks for.

Files are in memory: these tests claim what is written and in which order, not what a disk does, and they must not
depend on how long one takes to sync. A node that is killed leaves them as on a disk.
"""

from __future__ import annotations

import pytest

from service.cluster.store.directory import Directory
from tests.cluster.faulty import Faulty
from tests.memory import tmp_path as tmp_path


@pytest.fixture
def store(tmp_path) -> Faulty:
    return Faulty(Directory(f"file://{tmp_path / 'store'}", tmp_path / "store"))
