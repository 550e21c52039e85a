"""Files of the tests of the service are in memory: they claim which calls are made and in which order, not what a disk
does, and they must not depend on how long one takes to sync."""

from __future__ import annotations

from tests.memory import tmp_path as tmp_path
