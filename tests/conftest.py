"""Shared by all tests."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# No test depends on how fast the machine happens to be.
settings.register_profile("freshet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("freshet")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the measured series beside the project; they may not be copied into it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the measured series are not beside the project (../shared/data)")
    return folder
