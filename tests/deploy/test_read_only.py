"""What the image and the unit take away is not needed: the installed wheels run without it.

On a root that is read-only but for the volume and /tmp, without capabilities; without memory that is writable and
executable; with none of the system calls and address families that the unit forbids.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import freshet
from tests.conftest import ROOT
from tests.deploy.reading import image_environment, last, unit
from tests.test_distributions import wheel

pytestmark = [pytest.mark.long, pytest.mark.skipif(sys.platform != "linux", reason="these are Linux's own means")]
DEADLINE_S = 60.0
# A root of its own: what there is, read-only; the volume and /tmp in memory; what was installed in /mnt; in /opt the
# packages that it takes from this environment, which may be in /tmp.
READ_ONLY = """
set -e
root=$1
mount --make-rprivate /
mount --rbind / $root
mount -o remount,ro,bind $root
mount --bind "$2" $root/mnt
mount -o remount,ro,bind $root/mnt
mount --bind "$3" $root/opt
mount -t tmpfs none $root/tmp
mount -t tmpfs none $root/srv
shift 3
exec chroot $root setpriv --bounding-set=-all --inh-caps=-all --no-new-privs -- "$@"
"""
# 65: PR_SET_MDWE, which goes on to all that is started from here. 0: it is there.
NO_WRITE_AND_EXECUTE = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):
    sys.exit("no PR_SET_MDWE")
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """An environment with both wheels, and this one's other packages."""
    folder = tmp_path_factory.mktemp("image")
    sources = shutil.copytree(
        ROOT, folder / "sources", ignore=shutil.ignore_patterns(".*", "tests", "bench", "docs", "__pycache__", "build")
    )
    venv.create(folder / "env")
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env")}))
    packages.mkdir(parents=True, exist_ok=True)
    for name, source in (("client", sources / "client"), ("server", sources)):
        with wheel(source, folder / name) as archive:
            archive.extractall(packages)
    (packages / "others.pth").write_text(
        f"{sysconfig.get_path('purelib')}\n/opt\n"
    )  # behind ours, and its own .pth are not read
    script = folder / "env" / "bin" / "freshet"
    script.write_text("#!/mnt/bin/python\nfrom service.cli.main import main\nmain()\n")
    script.chmod(0o755)
    return folder / "env"


@contextmanager
def started(*command: object, **environment: str) -> Iterator[tuple[int, str, str]]:
    """A server until the block ends, which it must by SIGTERM in good order: its process, and where it listens."""
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, text=True, cwd="/", env=quiet(environment)
    ) as process:
        try:
            ready = until_ready(process)
            yield process.pid, ready["grpc"], ready["http"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()


def quiet(environment: dict[str, str]) -> dict[str, str]:
    """Without what would find the sources of this tree."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"FRESHET_LISTEN": "127.0.0.1:0", "FRESHET_HTTP": "127.0.0.1:0"} | environment


def until_ready(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stdout
    until = time.monotonic() + DEADLINE_S
    while select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
        line = os.read(process.stdout.fileno(), 1 << 16).decode()
        if ready := re.search(r"^ready grpc=(?P<grpc>\S+) http=(?P<http>\S+)$", line, re.M):
            return ready.groupdict()
        if not line:
            break
    raise AssertionError("the server was not ready")


async def learns(grpc: str) -> None:
    """Every part of the server has something to do."""
    async with asyncio.timeout(DEADLINE_S), freshet.connect(grpc) as client:
        await client.create_model("flow", channels=["x"], hidden=4)
        async with client.stream("flow", "pump") as stream:
            for n in range(80):
                await stream.step([float(n % 7)])
            await stream.wait_judged(80)
        assert len(await client.versions("flow")) > 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a root that is read-only")
def test_the_images_commands_run_on_a_read_only_root_without_any_capability(installed, tmp_path):
    def inside(*command: str) -> subprocess.CompletedProcess[str]:
        words = ["nsenter", f"--target={pid}", "--mount", "--root", "--wd=/srv", "--", *command]
        return subprocess.run(words, env=quiet(variables), capture_output=True, text=True, timeout=DEADLINE_S)

    (script,) = json.loads(last("ENTRYPOINT"))
    variables = image_environment() | {"PATH": f"/mnt/bin:{os.environ['PATH']}", "FRESHET_DATA": "/srv/data"}
    variables |= {"FRESHET_LISTEN": "127.0.0.1:0", "FRESHET_HTTP": "127.0.0.1:0"}
    root = tmp_path / "root"
    root.mkdir()
    folders = (root, installed, sysconfig.get_path("purelib"))
    command = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", *folders, script, *json.loads(last("CMD"))]
    with started(*command, **variables) as (pid, grpc, http):
        assert "Read-only file system" in inside("touch", "/probe").stderr
        assert re.search(r"^CapBnd:\s*0+$", Path(f"/proc/{pid}/status").read_text(), re.M)
        asyncio.run(learns(grpc))
        variables["FRESHET_HTTP"] = http
        check = inside(*json.loads(last("HEALTHCHECK").partition("CMD ")[2]))
        assert (check.returncode, check.stdout) == (0, "ready\n")
        made = inside(script, "backup", "--data", "/srv/data", "--out", "/srv/backup.tar")
        assert made.returncode == 0, made.stderr
        again = inside(script, "restore", "/srv/backup.tar", "--data", "/srv/again")
        assert again.returncode == 0, again.stderr


@pytest.mark.skipif(not shutil.which("strace") or not shutil.which("systemd-analyze"), reason="needs both")
def test_a_server_does_nothing_that_the_unit_forbids(installed, tmp_path):
    service, python, trace = unit()["Service"], installed / "bin" / "python", tmp_path / "trace"
    assert service["MemoryDenyWriteExecute"] == ["yes"]
    tracer = ["strace", "-D", "-f", "-qq", "-o", trace]
    serve = [python, "-c", NO_WRITE_AND_EXECUTE, python, "-m", "service.cli", "serve", "--data", tmp_path / "data"]
    with started(*tracer, *serve) as (_, grpc, _):
        asyncio.run(learns(grpc))

    text = trace.read_text(errors="replace")
    called = set(re.findall(r"^\d+ +(\w+)\(", text, re.M))
    allowed, forbidden = (expanded(group.lstrip("~")) for group in service["SystemCallFilter"])
    assert "onnxruntime" in text
    assert {"fdatasync", "setpriority", "recvmsg"} <= called, "the trace is of a server"
    # SQLite gives a file to its directory's owner where it runs as root; the unit's user is not.
    assert called - {"fchown"} - (allowed - forbidden) == set()
    families = set(re.findall(r"\bsocket\((AF_\w+)", text))
    assert {"AF_INET", "AF_UNIX"} & families
    assert families <= set(service["RestrictAddressFamilies"][0].split())


def expanded(group: str) -> set[str]:
    """The system calls of a group, as systemd has it."""
    told = subprocess.run(
        ["systemd-analyze", "syscall-filter", group], check=True, capture_output=True, text=True, timeout=30
    )
    words = {line.strip() for line in told.stdout.splitlines()[1:] if line.strip() and "#" not in line}
    groups = {word for word in words if word.startswith("@")}
    return (words - groups).union(*map(expanded, groups))
