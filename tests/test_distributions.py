"""What an application, and what an operator, installs."""

import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import freshet
from tests.conftest import ROOT


def wheel(source, out):
    """Build a wheel of a copy of `source`, so that no build folder is left in the tree."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=100)
    (made,) = out.glob("*.whl")
    return zipfile.ZipFile(made)


def packages(archive):
    return {name.split("/")[0] for name in archive.namelist() if ".dist-info/" not in name}


def metadata(archive):
    (file,) = (name for name in archive.namelist() if name.endswith("METADATA"))
    return archive.read(file).decode()


def requirements(archive):
    lines = re.findall(r"^Requires-Dist: ([A-Za-z0-9_.-]+)(.*)$", metadata(archive), re.M)
    return {name.lower() for name, rest in lines if "extra ==" not in rest}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    copy = tmp_path_factory.mktemp("sources") / "freshet"
    ignored = shutil.ignore_patterns(".*", "tests", "bench", "*.egg-info", "__pycache__", "build")
    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


def test_the_clients_wheel_holds_only_the_sdk_and_needs_little(sources, tmp_path):
    with wheel(sources / "client", tmp_path) as archive:
        assert packages(archive) == {"freshet"}
        assert requirements(archive) == {"grpcio", "grpcio-status", "numpy", "protobuf"}
        assert "freshet/py.typed" in archive.namelist()
        assert f"\nVersion: {freshet.__version__}\n" in metadata(archive)


def test_the_servers_wheel_holds_model_and_service_and_the_demos_data(sources, tmp_path):
    with wheel(sources, tmp_path) as archive:
        assert packages(archive) == {"model", "service"}
        assert {"freshet", "numpy", "onnxruntime"} <= requirements(archive)
        assert {"service/cli/data/nyc_taxi.csv", "service/cli/data/NOTICE.md"} <= set(archive.namelist())
        assert {"service/page/index.html", "service/page/vendor/LICENSE.uPlot"} <= set(archive.namelist())
        assert not [name for name in requirements(archive) if name in {"torch", "jax"}]
        assert f"\nVersion: {freshet.__version__}\n" in metadata(archive)
        assert f"\nRequires-Dist: freshet=={freshet.__version__}\n" in metadata(archive)
