"""What an image installs is of requirements.lock, with its hashes, and all that the server needs; nothing of tests."""

import re

import pytest

from deploy import locks
from tests.conftest import ROOT


@pytest.mark.parametrize("name", locks.FILES)
def test_a_lock_is_what_its_maker_makes(name):
    stale = f"deploy/{name} is stale: run `python -m deploy.locks`"
    assert (ROOT / "deploy" / name).read_text(encoding="utf-8") == locks.FILES[name](), stale


def test_the_image_has_what_the_distributions_need_and_none_of_what_developers_do():
    names = set(re.findall(r"^([a-z0-9.-]+)==", locks.runtime(), re.M))
    assert {"numpy", "grpcio", "onnxruntime", "uvicorn", "pydantic-core", "obstore", "psycopg-binary"} <= names
    assert not names & {
        "pytest",
        "mypy",
        "ruff",
        "hypothesis",
        "atheris",
        "scikit-learn",
        "torch",
        "pip",
        "freshet",
        "psutil",
    }


def test_every_line_is_pinned_by_hash():
    for pin in locks.locked().values():
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", pin), pin
