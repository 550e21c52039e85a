"""Triton Inference Server beside ours: where it is installed, a model repository for it, and its process.

The wheel `nvidia-pytriton` has the server, its Python backend and a stub of the backend for each version of Python. It
needs Linux on x86-64 with glibc 2.35 or later, and libpython of the version that runs this.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import AsyncIterator, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import grpc

from bench import _triton_model
from service.programs.backtest.child import free_port

WHEEL = "nvidia-pytriton==0.7.0"
NUMPY = "numpy<2"  # the stub reads arrays by the layout of NumPy 1: of NumPy 2's, it sends none of the bytes
CACHE = Path(__file__).resolve().parents[1] / "build" / "triton"  # `build/` is not in the repository
PACKAGES = CACHE / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
START_S, STOP_S, SHOWN_LINES = 60.0, 30.0, 5
VERSION = re.compile(r"server_version\s*\|\s*(\S+)")
# The direct scheduler gives each sequence a slot of the batch: ticks that are ready together share one execution.
# A sequence holds its slot until it ends, and one more than there are slots waits: a client ends its sequences.
CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: {sequences}
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ {channels} ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ {outputs} ] }} ]
sequence_batching {{
  max_sequence_idle_microseconds: 600000000
  direct {{ max_queue_delay_microseconds: 0 }}
  control_input [
    {{ name: "START" control [ {{ kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] }} ] }},
    {{ name: "END" control [ {{ kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] }} ] }},
    {{ name: "READY" control [ {{ kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] }} ] }},
    {{ name: "CORRID" control [ {{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }} ] }}
  ]
}}
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""


class Absent(RuntimeError):
    """Triton does not run here; the text is the reason and a remedy."""


class Installed(NamedTuple):
    """A Triton server on disk.

    root: the folder of its `bin` and `backends`; stubs: with one for each version of Python, None: there is one alone;
    python: the `bin` folder of the environment that the stub takes its packages from, by way of PATH.
    """

    root: Path
    stubs: Path | None
    libraries: tuple[Path, ...]
    python: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of the server's process."""
        paths = [*map(str, self.libraries), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        return {
            **os.environ,
            "LD_LIBRARY_PATH": os.pathsep.join(paths),
            "PATH": os.pathsep.join([str(self.python), os.environ.get("PATH", "")]),
            "OPENBLAS_NUM_THREADS": "1",
        }


class Triton(NamedTuple):
    """A running server. address: HOST:PORT of its gRPC."""

    pid: int
    address: str
    version: str


def installed(given: Path | None) -> Installed:
    """Return the server in a folder, or the wheel's, installed into CACHE first if it is not there. Raises Absent.

    given: the folder of `bin/tritonserver` and `backends`.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise Absent(f"the wheel {WHEEL} is for Linux on x86-64, not {platform.system()} on {platform.machine()}")
    if given is None and not (CACHE / "bin" / "done").exists():
        _install()
    root = (given or PACKAGES / "pytriton" / "tritonserver").resolve()
    if not (root / "bin" / "tritonserver").exists():
        raise Absent(f"{root} has no bin/tritonserver: give the folder that has")
    stubs, beside = root / "python_backend_stubs", root.parents[1]
    wheel, python = beside / "nvidia_pytriton.libs", root.parents[min(4, len(root.parents) - 1)] / "bin"
    libraries = [*(path for path in (wheel, root / "lib") if path.exists()), Path(sysconfig.get_config_var("LIBDIR"))]
    has_python = wheel.exists() and (python / "python3").exists()
    python = python if has_python else Path(sys.executable).parent
    found = Installed(root, stubs if stubs.exists() else None, tuple(libraries), python)
    if found.stubs and not (found.stubs / PYTHON).exists():
        has = ", ".join(sorted(path.name for path in found.stubs.iterdir()))
        raise Absent(f"Triton's Python backend has no stub for Python {PYTHON}: run this with one of {has}")
    if lost := missing(found):
        raise Absent(f"libraries that Triton needs are not installed: {', '.join(lost)}")
    return found


def _install() -> None:
    """Install the wheel in an environment of its own, without what its Python package depends on. Raises Absent."""
    print(f"installing {WHEEL} into {CACHE.relative_to(CACHE.parents[1])} (200 MB)", file=sys.stderr)
    venv.create(CACHE, clear=True, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(CACHE / "bin" / "python3"), "install", "--quiet", "--no-input"]
    wanted = [WHEEL, NUMPY, f"onnxruntime=={version('onnxruntime')}"]
    command = [*pip, "--no-deps", "--only-binary", ":all:", *wanted]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    if done.returncode:
        raise Absent(f"{', '.join(wanted)} could not be installed: {' '.join(done.stderr.split())[-300:]}")
    (CACHE / "bin" / "done").touch()


def missing(found: Installed) -> list[str]:
    """Return the names of shared libraries that server, backend and stub need and that the system has not."""
    programs = [found.root / "bin" / "tritonserver", *(found.root / "backends" / "python").glob("*.so"), _stub(found)]
    lost: set[str] = set()
    for program in programs:
        command = ["ldd", str(program)]
        done = subprocess.run(command, env=found.environment, text=True, capture_output=True, check=False)
        lost |= lacking(done.stdout + done.stderr)
    return sorted(lost)


def lacking(text: str) -> set[str]:
    """Return what `ldd` did not find: libraries, or versions of their symbols."""
    libraries = re.findall(r"(\S+) => not found", text)
    return {*libraries, *re.findall(r"version `(\S+)' not found", text)}


def _stub(found: Installed) -> Path:
    name = "triton_python_backend_stub"
    return found.stubs / PYTHON / name if found.stubs else found.root / "backends" / "python" / name


def repository(folder: Path, name: str, onnx: bytes, sequences: int) -> Path:
    """Write a model repository with one model, of one channel and one output, and return it. sequences: slots."""
    first = folder / name / "1"
    first.mkdir(parents=True)
    config = CONFIG.format(name=name, sequences=sequences, channels=1, outputs=1)
    (folder / name / "config.pbtxt").write_text(config)
    (first / _triton_model.GRAPH).write_bytes(onnx)
    shutil.copy(_triton_model.__file__, first / "model.py")
    return folder


@contextlib.asynccontextmanager
async def running(found: Installed, models: Path, folder: Path) -> AsyncIterator[Triton]:
    """Run the server with a model repository until the block ends. folder: for backends and log. Raises Absent."""
    backends = folder / "backends"
    shutil.copytree(found.root / "backends", backends)
    shutil.copy(_stub(found), backends / "python")
    address, log = f"127.0.0.1:{free_port()}", folder / "log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            found.root / "bin" / "tritonserver",
            "--model-repository", models, "--backend-directory", backends,
            "--allow-http", "false", "--allow-metrics", "false",
            "--exit-timeout-secs", "3", "--grpc-address", "127.0.0.1", "--grpc-port", address.rpartition(":")[2],
            stdin=asyncio.subprocess.DEVNULL, stdout=file, stderr=file, env=found.environment,
        )  # fmt: skip
    try:
        await _ready(process, address, log)
        said = VERSION.search(log.read_text())
        yield Triton(process.pid, address, said.group(1) if said else "unknown")
        if process.returncode is not None:
            raise RuntimeError(f"tritonserver ended with {process.returncode}:{_last(log)}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _ready(process: asyncio.subprocess.Process, address: str, log: Path) -> None:
    """Wait until the server, which listens once its models are loaded, accepts a connection. Raises Absent."""
    ended = asyncio.create_task(process.wait())
    async with grpc.aio.insecure_channel(address, options=[("grpc.max_reconnect_backoff_ms", 500)]) as channel:
        ready = asyncio.create_task(channel.channel_ready())
        await asyncio.wait([ended, ready], timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        if ready.done() and not ended.done():
            ended.cancel()
            return
        ready.cancel()
        ended.cancel()
    how = f"ended with {process.returncode}" if process.returncode is not None else f"was not ready after {START_S:g} s"
    raise Absent(f"tritonserver {how}:{_last(log)}")


def _last(log: Path) -> str:
    return "\n".join(["", *log.read_text(errors="replace").splitlines()[-SHOWN_LINES:]])


def descendants(pid: int) -> list[int]:
    """Return the ids of the processes that a process started, and of those that they started."""
    parents: dict[int, list[int]] = {}
    for child, parent in _parents():
        parents.setdefault(parent, []).append(child)
    found = [pid]
    for one in found:  # it grows meanwhile
        found += parents.get(one, [])
    return found[1:]


def _parents() -> Iterator[tuple[int, int]]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            after_name = stat.read_text().rpartition(")")[2].split()
            yield int(stat.parent.name), int(after_name[1])


def process_cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process, user and system, its ended threads included. Exact to 1 ns."""
    return time.clock_gettime(~pid << 3 | 2)  # as clock_getcpuclockid(3) makes it; 2: of all threads
