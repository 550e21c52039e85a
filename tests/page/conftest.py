"""The page's modules in Node."""

import json
import shutil
import subprocess

import pytest

from tests.conftest import ROOT

SCRIPTS = ROOT / "service" / "page" / "js"
NODE = shutil.which("node")


@pytest.fixture(scope="session")
def node(tmp_path_factory):
    """A function that runs a source beside a copy of the page's modules, and returns the JSON that it prints."""
    if NODE is None:
        pytest.skip("node is not installed (Debian: nodejs): the page's modules run in no other way")
    root = tmp_path_factory.mktemp("page")
    shutil.copytree(SCRIPTS, root / "js")
    (root / "package.json").write_text('{"type": "module"}', encoding="utf-8")  # else Node takes .js for CommonJS

    def run(source):
        command = [NODE, "--input-type=module"]
        done = subprocess.run(command, input=source, cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
