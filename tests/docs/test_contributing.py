"""What CONTRIBUTING.md and SECURITY.md name is there, and the hosted workflow runs what developers run."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import dev
from tests.conftest import ROOT
from tests.docs.markdown import anchors, links

PAGES = ("CONTRIBUTING.md", "SECURITY.md")
CODE = re.compile(r"`([^`\n]+)`")
MEANT = {"model/cells/NAME.py", "service/cli/NAME.py"}  # a reader's own files


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def paths(markdown: str) -> set[str]:
    """Paths of the repository in a page's code: in back ticks, and in its fenced commands."""
    tops = {entry.name for entry in ROOT.iterdir()}
    words = {
        word.strip('"') for word in re.findall(r'[^\s`"]+', " ".join([*CODE.findall(markdown), *fenced(markdown)]))
    }
    return {word for word in words if word.partition("/")[0] in tops and not word.startswith("dev.py")} - MEANT


def fenced(markdown: str) -> list[str]:
    return re.findall(r"^ *```sh\n(.*?)^ *```", markdown, re.M | re.S)


def missing(path: str) -> str:
    """Return the missing part of a path, or of a test named with `::`; empty if both exist."""
    file, _, test = path.partition("::")
    if not (ROOT / file).exists():
        return file
    defined = re.findall(r"^(?:async )?def (\w+)", (ROOT / file).read_text(encoding="utf-8"), re.M) if test else []
    return path if test and test.partition("[")[0] not in defined else ""


@pytest.mark.parametrize("page", PAGES)
def test_every_path_and_test_that_a_page_names_is_there(page):
    named = paths(text(page))
    assert not [path for path in sorted(named) if missing(path)]
    assert page == "SECURITY.md" or len(named) > 60


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page):
    for link in links(text(page)):
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists(), link
        assert not anchor or anchor in anchors((ROOT / path).read_text(encoding="utf-8")), link


@pytest.mark.parametrize(
    "named",
    ["model/cells/lost.py", "tests/test_dev.py::test_lost", "tests/lost.py::test_lost", "tests/test_dev.py::checks_"],
)
def test_a_path_or_a_test_that_is_gone_is_found(named):
    assert paths(f"See `{named}`.") == {named}
    assert missing(named)


def test_every_name_in_capitals_that_a_recipe_gives_is_in_a_file_that_it_gives():
    """Such as `CELLS`: in one of the files that its section names."""
    wrong = []
    for section in re.split(r"^#+ ", text("CONTRIBUTING.md"), flags=re.M):
        files = [Path(ROOT / path.partition("::")[0]) for path in paths(section)]
        words = "\n".join(
            file.read_text(encoding="utf-8")
            for file in files
            if file.is_file() and file.suffix in {".md", ".proto", ".py"}
        )
        names = {name for code in CODE.findall(section) for name in re.findall(r"^_?[A-Z]{2,}[A-Z_]*\b", code)}
        wrong += [name for name in names - {"VERSION", "CHANGELOG"} if not re.search(rf"\b{name}\b", words)]
    assert not wrong


def test_every_command_of_dev_py_that_a_page_names_is_a_verb():
    verbs = set(re.findall(r"python3 dev\.py (\w+)", text("CONTRIBUTING.md")))
    assert {"setup", "check", "fix", "docs", "test"} <= verbs <= dev.VERBS.keys()


def test_the_hosted_workflow_runs_ci_on_every_python_from_the_oldest_on_with_the_tools():
    job = yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"]["test"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    oldest = tomllib.loads(text("pyproject.toml"))["project"]["requires-python"].removeprefix(">=")

    assert commands[-1] == ".ci/run"
    assert job["strategy"]["matrix"]["python"] == [oldest, "3.12", "3.13", "3.14"]
    assert all(tool in commands[0].split() for tool in (*dev.TOOLS, *dev.LIBRARIES))


def test_what_dev_py_installs_is_listed():
    assert all(f"`{name}`" in text("CONTRIBUTING.md") for name in (*dev.TOOLS, *dev.LIBRARIES))
