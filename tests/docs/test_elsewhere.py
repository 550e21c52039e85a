"""The programs of docs/onnx.md that are not Python: they compute what Python does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import numpy as safetensors
from typer.testing import CliRunner

from service.cli.main import app
from tests.conftest import ROOT, unless_installed
from tests.docs import headers
from tests.docs.markdown import blocks

WEB = "onnxruntime-web@1.30.0"
LIMIT_S = 240
FILES = {block.file: block for block in blocks((ROOT / "docs" / "onnx.md").read_text()) if block.file}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with the page's programs and the model that they run."""
    monkeypatch.chdir(tmp_path)
    for name in ("step.py", "step.mjs", "step.cpp", "pump.toml"):
        (tmp_path / name).write_text(FILES[name].text + "\n")
    rng, rows = np.random.default_rng(0), 32
    shapes: dict[str, tuple[int, ...]] = {"head.weight": (2, 8), "head.bias": (2,)}
    for n, inputs in enumerate((3, 8)):
        shapes |= {f"rnn.weight_ih_l{n}": (rows, inputs), f"rnn.weight_hh_l{n}": (rows, 8)}
        shapes |= {f"rnn.bias_ih_l{n}": (rows,), f"rnn.bias_hh_l{n}": (rows,)}
    weights = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    safetensors.save_file(weights, tmp_path / "pump.safetensors")
    done = CliRunner().invoke(app, ["import", "pump.safetensors", "--config", "pump.toml"])
    assert done.exit_code == 0, done.output
    return tmp_path


def ran(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(said: str) -> list[list[float]]:
    return [[float(word) for word in line.split()] for line in said.splitlines() if line[0] in "-0123456789"]


@pytest.mark.long
def test_the_page_s_javascript_computes_in_node_what_python_does(folder):
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("Node and npm are not installed")
    install = ("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", WEB)
    done = subprocess.run(install, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode != 0:
        unless_installed(f"npm could not install {WEB}: {done.stderr[-300:]}")
    python, node = rows(ran(sys.executable, "step.py")), rows(ran("node", "step.mjs"))
    assert len(python) == 3
    np.testing.assert_allclose(node, python, atol=2e-3)  # printed with three digits


@pytest.mark.long
def test_the_page_s_c_plus_plus_computes_what_python_does(folder, tmp_path_factory):
    if shutil.which("g++") is None:
        unless_installed("g++ is not installed; on Debian, as root, `python3 dev.py test` installs it")
    ran("g++", "-std=c++17", "step.cpp", *headers.flags(tmp_path_factory.mktemp("onnxruntime")), "-o", "step")
    np.testing.assert_allclose(rows(ran("./step")), rows(ran(sys.executable, "step.py")), atol=2e-3)
