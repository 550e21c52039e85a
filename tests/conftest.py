"""Shared by all tests."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# The suite starts some two hundred servers and commands. Where the machine forbids bytecode, each of them would compile
# the whole source again: a third of its start.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

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
