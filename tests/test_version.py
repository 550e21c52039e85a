"""The version is written once, in client/freshet/version.py; what has a copy has the same.

test_distributions.py compares the versions of the wheels, test_metrics.py the one of `freshet_build_info`.
"""

import re
from importlib import metadata

import pytest
from typer.testing import CliRunner

import freshet
import service
from deploy.version import COPIES, updated
from service.cli.main import app
from tests.conftest import ROOT


@pytest.mark.parametrize("file", COPIES)
def test_a_copy_is_the_version(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    assert updated(text, COPIES[file], freshet.__version__) == text, "run `python3 dev.py docs`"


@pytest.mark.parametrize("distribution", ["freshet", "freshet-server"])
def test_the_installed_distributions_have_the_version(distribution):
    assert metadata.version(distribution) == freshet.__version__, "run `python3 dev.py setup`"


def test_the_command_line_prints_the_version():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"freshet {freshet.__version__}\n")
    assert service.version() == freshet.__version__


def test_the_changelogs_newest_release_is_the_version():
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    released = [heading.split()[0] for heading in headings if heading != "Unreleased"]
    assert headings[0] == "Unreleased" or headings[0].split()[0] == freshet.__version__
    assert released[:1] in ([], [freshet.__version__]), "name the release in CHANGELOG.md as version.py does"


def test_a_copy_is_updated_in_its_one_place():
    before = r"^ +image: freshet:"
    assert updated("a:\n  image: freshet:0.1.0\n", before, "1.2.3") == "a:\n  image: freshet:1.2.3\n"
    with pytest.raises(ValueError, match="found 0"):
        updated("a:\n  image: other:0.1.0\n", before, "1.2.3")
