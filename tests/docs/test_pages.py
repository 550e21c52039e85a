"""Every command and snippet of every page does what the page says."""

import contextlib
import fcntl
import os
import re
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from textwrap import indent

import pytest

from tests.conftest import ROOT
from tests.docs import checkout
from tests.docs.markdown import anchors, blocks, links, name, pages, prose
from tests.docs.session import OUTPUTS, PICTURES, shows

LANGUAGES = {"sh", "python", "toml", "js", "cpp", *OUTPUTS, *PICTURES}
# Followed by --all. Without it, what they say is tested in smaller form: examples/ is run, journeys/test_nodes.py and
# test_oip.py are clients of a cluster and of the Open Inference Protocol.
SLOW = {
    f"docs/{page}.md"
    for page in (
        "access", "application", "cluster", "erasure", "learning", "oip", "onnx", "operations", "quickstart",
    )
}  # fmt: skip
# The page waits until a node's note has grown old, for which three heartbeats must be missed.
QUICK = {"docs/cluster.md": {"FRESHET_HEARTBEAT_S": "0.5"}}
MOST_LEFT_OUT = 12


def follow(page: Path, folder: Path, *options: str) -> tuple[int, str]:
    with contextlib.ExitStack() as turn:
        if not checkout.own_network():  # pages share the ports that they name: one at a time
            lock = turn.enter_context(open(Path(tempfile.gettempdir()) / "freshet-docs.lock", "w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        return checkout.follow(page, checkout.make(folder), options, settings=QUICK.get(name(page), {}))


def followed() -> list[Path]:
    """Pages with something to run."""
    return [page for page in pages() if any(b.language not in PICTURES for b in blocks(page.read_text()))]


@pytest.mark.timeout(650)
@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=pytest.mark.long if name(p) in SLOW else (), id=name(p)) for p in followed()],
)
def test_a_page_does_what_it_says(page, tmp_path, request):
    longer = f"test_a_page_does_what_it_says_with_its_long_parts[{name(page)}]"
    if longer in (item.name for item in request.session.items):
        pytest.skip("the page is followed with its long parts, and with all others, by the test of those")
    code, said = follow(page, tmp_path)
    assert code == 0, said


@pytest.mark.long
@pytest.mark.timeout(650)
@pytest.mark.parametrize(
    "page",
    [pytest.param(p, id=name(p)) for p in followed() if any("long" in b.remarks for b in blocks(p.read_text()))],
)
def test_a_page_does_what_it_says_with_its_long_parts(page, tmp_path):
    code, said = follow(page, tmp_path, "--long")
    assert code == 0, said


@pytest.mark.long
def test_every_snippet_passes_a_type_checker(tmp_path):
    """A page's cells are one coroutine, its files are files."""
    for number, page in enumerate(pages()):
        python = [block for block in blocks(page.read_text()) if block.language == "python"]
        cells = [indent(block.text, "    ") for block in python if not block.file]
        (tmp_path / f"cells_{number}.py").write_text("\n".join(["async def page() -> None:", *cells, "    pass\n"]))
        for block in python:
            if block.file:
                (tmp_path / f"page_{number}_{Path(block.file).name}").write_text(block.text)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--ignore-missing-imports",
        "--allow-untyped-defs",
        "--allow-untyped-calls",
        "--cache-dir=.mypy_cache/pages",  # with these options the modules of the other cache would be checked again
    ]
    done = subprocess.run(
        [*command, *sorted(tmp_path.glob("*.py"))], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_what_is_not_run_says_why_and_is_little():
    left_out = [
        (f"{name(page)}:{block.line}", block.remarks[kind])
        for page in pages()
        for block in blocks(page.read_text())
        for kind in ("not run", "long")
        if kind in block.remarks
    ]
    print(*(f"{where}: {why}" for where, why in left_out), sep="\n")
    assert all(len(why.split()) >= 3 for _, why in left_out), "a remark says why, in words"
    assert len(left_out) <= MOST_LEFT_OUT


def test_every_block_has_a_language_that_says_what_becomes_of_it():
    wrong = [
        f"{name(page)}:{block.line} {block.language!r}"
        for page in pages()
        for block in blocks(page.read_text())
        if block.language not in LANGUAGES
    ]
    assert not wrong


def test_every_link_leads_to_a_file_and_an_anchor_that_are_there():
    wrong = []
    for page in pages():
        for link in links(page.read_text()):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
                wrong.append(f"{name(page)}: {link}")
    assert not wrong


def test_every_page_is_in_the_index():
    docs = ROOT / "docs"
    index = {(docs / link.partition("#")[0]).resolve() for link in links((docs / "README.md").read_text())}
    missing = [name(page) for page in docs.rglob("*.md") if page not in index and page.name != "README.md"]
    assert not missing


@pytest.mark.parametrize("rules", ["alerts.yml", "cluster.yml"])
def test_every_alert_has_its_section_in_the_runbook(rules):
    alerts = (ROOT / "deploy" / "prometheus" / rules).read_text()
    runbooks = re.findall(r"^ +runbook: (\S+)#(\S+)$", alerts, re.M)
    assert len(runbooks) == alerts.count("- alert: ") > 0
    wrong = [f"{page}#{anchor}" for page, anchor in runbooks if anchor not in anchors((ROOT / page).read_text())]
    assert not wrong


def test_every_metric_that_a_page_names_is_one():
    described = set(re.findall(r"^\| `(freshet_\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.M))
    wrong = [
        f"{name(page)}: {metric}"
        for page in pages()
        for metric in re.findall(r"\bfreshet_[a-z_]+\b", page.read_text())
        if not {metric, re.sub("_(bucket|sum|count)$", "", metric)} & described
    ]
    assert described
    assert not wrong


def test_every_file_that_a_page_names_in_code_is_there():
    wrong = [
        f"{name(page)}: {named}"
        for page in pages()
        for named in re.findall(r"`((?:docs|deploy|examples|tests|bench|protos)/[\w./-]+)`", prose(page.read_text()))
        if not (page.parent / named).exists() and not (ROOT / named).exists()
    ]
    assert not wrong


# --- the checks are seen to fail


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("```sh\nfreshet nonsense\n```", "line 1: exit code 2"),
        ("```sh\necho one\n```\n\n```text\ntwo\n```", "never printed 'two'"),
        ("```python\nraise ValueError('no')\n```", "ValueError: no"),
        ("```toml\nkey = 1\n```", "needs a first line"),
        ("```sh\nfreshet serve --max-streams 0\n```", "the server ended with 2"),
        ("<!-- fails: 2 -->\n```sh\ntrue\n```", "exit code 0, not 2"),
        ("```text\nsaid by nobody\n```", "needs a first line"),
        ("```toml\n# a.toml\nkey = 1\n```\n```text\nsaid by a file\n```", "line 5: a text block needs"),
        ("<!-- not run: it would never end -->\n```sh\nfalse\n```\n```text\nx\n```\n```sh\nfalse\n```", "line 8"),
    ],
)
def test_a_page_that_does_not_do_what_it_says_is_told(page, complaint, tmp_path):
    file = tmp_path / "page.md"
    file.write_text(page)
    code, said = checkout.follow(file, checkout.make(tmp_path))
    assert code == 1
    assert complaint in said


def test_a_page_is_one_shell_one_notebook_and_its_files(tmp_path):
    file = tmp_path / "page.md"
    file.write_text(
        "```sh\nmkdir a; cd a\nNAME=world\n```\n"
        "```python\nimport asyncio\nawait asyncio.sleep(0)\ncount = 3\n```\n"
        "```python\n# b.py\nprint('hello')\n```\n"
        "```sh\necho $NAME; python b.py\n```\n```text\nworld\nhello\n```\n"
        "```python\nprint(count)\n```\n```text\n4\n```\n"
    )
    code, said = checkout.follow(file, checkout.make(tmp_path))
    assert code == 0, said


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux tells when a process that is no child has ended")
def test_nothing_that_a_page_started_outlives_it(tmp_path):
    file = tmp_path / "page.md"
    file.write_text("```sh\nsleep 1000 > /dev/null 2>&1 &\necho $! > pid\nfalse\n```\n")
    tree = checkout.make(tmp_path)
    code, _ = checkout.follow(file, tree)
    assert code == 1
    with contextlib.suppress(ProcessLookupError):  # gone already
        process = os.pidfd_open(int((tree / "pid").read_text()))
        assert select.select([process], [], [], 60.0)[0], "it lives on"


def test_an_output_is_compared_but_for_its_numbers():
    said = "streaming\n            mse   mae\nfreshet  0.0177  9e-5\nready in 2.1 s\n"
    assert shows("mse mae\nfreshet 0.02 0.1", said) == ""
    assert shows("…\nready in …", said) == ""
    assert shows("freshet 0.02 n/a", said) == "freshet 0.02 n/a"
    assert shows("ready in 1 s\nmse mae", said) == "mse mae", "the order counts"
