"""Clients of other servers, installed apart from ours: `python -m tests.journeys.clients`, as `dev.py test --all` does.

KServe's client and perf_analyzer need packages that do not fit requirements.lock, so both have an environment of their
own in .venv/clients, from clients.lock. Tests ask here where they are; KSERVE_PYTHON and PATH take precedence.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.conftest import unless_installed

FOLDER = Path(sys.prefix) / "clients"
LOCK = Path(__file__).with_name("clients.lock")
REMEDY = "`python3 dev.py test --all` installs it where it can"
# The lock has all dependencies. Compiling those that nothing imports would take twice as long as the rest.
EXACTLY = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-compile")


def install(folder: Path = FOLDER, lock: Path = LOCK) -> int:
    """Make or refresh the environment in `folder`; do nothing if it is up to date.

    Returns the exit code of the installing command. After a failure, for example offline, the next call tries again.
    """
    python, stamp = folder / "bin" / "python", folder / "lock.sha256"
    wanted = hashlib.sha256(sys.version.encode() + lock.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return 0
    print(f"installing clients of other servers in {folder}", flush=True)
    venv.create(folder, clear=True, symlinks=True)
    uv, target = shutil.which("uv"), f"--python={python}"
    words = [uv, "pip", "install", target] if uv else [sys.executable, "-m", "pip", target, "install", "--no-input"]
    code = subprocess.run([*words, *EXACTLY, "-r", lock], stdin=subprocess.DEVNULL, check=False).returncode
    if code == 0:
        stamp.write_text(wanted)
    else:
        print(f"that failed with exit code {code}: tests of these clients are skipped, or fail if CI is set")
    return code


def kserve_python() -> str:
    """Return a Python that has KServe's client; skip the test if there is none for this machine."""
    if given := os.environ.get("KSERVE_PYTHON"):
        return given
    if sys.version_info >= (3, 14):
        pytest.skip("KServe's client 0.21 is not for Python 3.14 or newer, and KSERVE_PYTHON is not set")
    if not list(FOLDER.glob("lib/python*/site-packages/kserve")):
        unless_installed(f"KServe's client is not installed, and KSERVE_PYTHON is not set: {REMEDY}")
    return str(FOLDER / "bin" / "python")


def perf_analyzer() -> tuple[str, dict[str, str]]:
    """Return the program, and the environment that it needs to start; skip the test if it is not for this machine."""
    libraries = [
        os.environ.get("LD_LIBRARY_PATH", ""),
        *map(str, FOLDER.glob("lib/python*/site-packages/nvidia/*/lib")),
    ]
    environment = {"LD_LIBRARY_PATH": ":".join(filter(None, libraries))}
    program = shutil.which("perf_analyzer") or str(FOLDER / "bin" / "perf_analyzer")
    if not Path(program).exists():
        if (sys.platform, platform.machine()) != ("linux", "x86_64"):
            pytest.skip("perf_analyzer is not on PATH, and its wheel is for Linux on x86-64 alone")
        unless_installed(f"perf_analyzer is not installed: {REMEDY}")
    command = [program, "--version"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:  # a library is missing
        unless_installed(f"perf_analyzer does not start: {done.stderr.strip()}; {REMEDY}")
    return program, environment


if __name__ == "__main__":
    raise SystemExit(install())
