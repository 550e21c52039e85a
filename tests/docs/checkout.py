"""A checkout for one page to be followed in, with the environment of these tests as its `.venv`, and a network of its
own, so that every page may listen on the ports that it names."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import MappingProxyType

import dev
from tests.conftest import ROOT

OWN_NETWORK = ("unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


def make(folder: Path) -> Path:
    """A tree as `git clone` leaves it, set up; its files are links to this tree's."""
    tree = folder / "freshet"
    tree.mkdir()
    for entry in ROOT.iterdir():
        if not entry.name.startswith(".") and entry.name != "dev.py":
            (tree / entry.name).symlink_to(entry)
    shutil.copy(ROOT / "dev.py", tree)  # it works where it lies
    venv, real = tree / ".venv", Path(sys.prefix)
    (venv / "bin").mkdir(parents=True)
    (venv / "lib").symlink_to(real / "lib")
    shutil.copy(real / "pyvenv.cfg", venv)
    for tool in (real / "bin").iterdir():
        if not tool.name.startswith("activate"):
            (venv / "bin" / tool.name).symlink_to(tool)
    (venv / "bin" / "activate").write_text(f"export PATH={venv}/bin:$PATH\n")
    (venv / dev.STAMP.name).write_text(dev.fingerprint())  # set-up finds nothing to do
    if shutil.which("grpcurl") is None:
        stand_in = venv / "bin" / "grpcurl"
        stand_in.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.docs.grpcurl "$@"\n')
        stand_in.chmod(0o755)
    return tree


@cache
def own_network() -> tuple[str, ...]:
    """What to put before a command so that its loopback is its own; nothing where that is not allowed."""
    tools = all(map(shutil.which, ("unshare", "ip")))
    allowed = tools and subprocess.run([*OWN_NETWORK, "true"], capture_output=True, check=False).returncode == 0
    return OWN_NETWORK if allowed else ()


def follow(
    page: Path,
    tree: Path,
    options: Sequence[str] = (),
    limit_s: float = 600.0,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> tuple[int, str]:
    """Follow a page in a checkout: exit code, and all that was printed. What it started is ended with it.

    settings: variables of servers that the page starts, for what would only take longer otherwise.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FRESHET_")} | dict(
        settings
    )
    environment |= {
        "PATH": f"{tree / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "client"))),
        "PYTHONUNBUFFERED": "1",
        "HOME": str(tree.parent),
        "COLUMNS": "120",
    }
    command = [*own_network(), sys.executable, "-m", "tests.docs.session", str(page), *options]
    process = subprocess.Popen(
        command, cwd=tree, env=environment, start_new_session=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=limit_s)
    finally:
        with suppress(ProcessLookupError):  # the group is what it has started, also where itself has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode, said
