"""Servers and commands forked from a process that has already imported their modules, which takes a second of a core.

A forked server is a process like any other: it runs `service.cli` with `serve`, its own arguments, environment, pipes
and session; a command likewise. What must run other code first (`crash.mutate`) starts as `python -m service.cli`, but
for a server whose code may run once everything is imported; so does what has its lines counted.

`spawn` and `command` alone run this module: `python -m tests.journeys.preloaded FD`, FD a listening Unix socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.machinery
import json
import os
import pkgutil
import runpy
import selectors
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, cast

import grpc_health
import grpc_reflection

import model
import service
from service.learning import spawned
from service.programs.backtest import child
from service.server import process
from tests.journeys.forked import Connection, Forked

REQUEST_BYTES = 1 << 20
MEASURED = "COVERAGE_PROCESS_CONFIG"  # set while coverage counts lines in each process
LATE = "# may run after the imports\n"  # how a sitecustomize begins that a fork may run

start_as_command = child.spawn


def sitecustomize() -> str | None:
    """Return the file that Python runs first if it starts with this sys.path."""
    importlib.invalidate_caches()
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    return spec.origin if spec else None


ORDINARY = sitecustomize()


async def spawn(flags: Sequence[str], log: BinaryIO) -> asyncio.subprocess.Process:
    """Start a server; replaces `child.spawn`."""
    first = sitecustomize()
    first = None if first == ORDINARY else first
    if MEASURED in os.environ or (first and not Path(first).read_text().startswith(LATE)):
        return await start_as_command(flags, log)
    (read_in, write_in), (read_out, write_out) = os.pipe(), os.pipe()
    words = ["serve", "--with-parent", *flags]
    pid, status = await fork(words, (read_in, write_out, log.fileno()), os.getcwd(), {}, first)
    os.close(read_in)
    os.close(write_out)
    forked = Forked(pid, status, os.fdopen(write_in, "wb", buffering=0), await reader_of(read_out))
    return cast(asyncio.subprocess.Process, forked)


async def command(
    *arguments: object,
    folder: Path | None = None,
    merged: bool = False,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> asyncio.subprocess.Process:
    """Start `freshet ARGUMENTS` in a folder with its output on pipes, or on one pipe (`merged`), and without input."""
    words, pipe, where = [*map(str, arguments)], asyncio.subprocess.PIPE, str(folder or Path.cwd())
    if sitecustomize() != ORDINARY or MEASURED in os.environ:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "service.cli", *words, cwd=where, env={**environment(), **variables}, stdout=pipe,
            stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.STDOUT if merged else pipe,
        )  # fmt: skip
    (read_out, write_out), (read_err, write_err), nothing = os.pipe(), os.pipe(), os.open(os.devnull, os.O_RDONLY)
    pid, status = await fork(words, (nothing, write_out, write_out if merged else write_err), where, variables)
    for fd in (nothing, write_out, write_err):
        os.close(fd)
    forked = Forked(pid, status, None, await reader_of(read_out), await reader_of(read_err))
    return cast(asyncio.subprocess.Process, forked)


async def fork(
    arguments: Sequence[str],
    fds: Sequence[int],
    folder: str,
    variables: Mapping[str, str],
    first: str | None = None,
) -> tuple[int, Connection]:
    """Fork a process with these standard files; return its id and the connection that reports its end.

    first: a file of Python that it runs before anything else.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(preloaded().address)
    request = {
        "arguments": arguments,
        "environment": {**environment(), **variables},
        "umask": umask(),
        "folder": folder,
        "first": first,
    }
    socket.send_fds(connection, [json.dumps(request).encode()], fds)
    connection.setblocking(False)
    status = await asyncio.open_unix_connection(sock=connection)
    return int(await status[0].readline()), status


async def reader_of(fd: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", buffering=0)
    )
    return reader


def umask() -> int:
    os.umask(mask := os.umask(0o077))
    return mask


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


class Preloaded:
    """The process that forks servers, and the address it listens on. It ends when its parent does."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.address = str(Path(self._folder.name) / "preloaded")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self.address)
            listening.listen()
            fd = listening.fileno()
            command = [sys.executable, "-m", __name__, str(fd)]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[fd], env=environment())


@cache
def preloaded() -> Preloaded:
    """Return this process's own, started at the first call."""
    return Preloaded()


# ---- the process


def request_in_a_fork(listening: socket.socket) -> dict[str, Any]:
    """Fork for each connection and report the fork's exit code there. Return only in a fork, with its request."""
    selector = selectors.DefaultSelector()
    selector.register(listening, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fd == 0:  # the tests have ended; each server sees that by itself
                raise SystemExit
            if key.fileobj is listening:
                connection, _ = listening.accept()
                data, fds, *_ = socket.recv_fds(connection, REQUEST_BYTES, 3)
                pid = os.fork()
                if not pid:
                    for target, fd in enumerate(fds):
                        os.dup2(fd, target)
                    close(selector, connection, *fds)
                    return dict(json.loads(data))
                close(None, *fds)
                connection.sendall(b"%d\n" % pid)
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))
            else:
                pid, connection = key.data
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                selector.unregister(key.fileobj)
                with contextlib.suppress(OSError):  # the tests may have gone
                    connection.sendall(b"%d\n" % code)
                close(None, key.fd, connection)


def close(selector: selectors.BaseSelector | None, *more: socket.socket | int) -> None:
    """Close `more`, and everything that the selector watches except standard input."""
    watched = list(selector.get_map().values()) if selector else []
    for one in (*more, *(key.fileobj for key in watched if key.fd), *(key.data[1] for key in watched if key.data)):
        one.close() if isinstance(one, socket.socket) else os.close(cast(int, one))
    if selector:
        selector.close()


def import_most() -> None:
    """Import the server's modules, except onnxruntime and those that need it: it starts a thread, which forks lack."""
    sys.modules["onnxruntime"] = None  # type: ignore[assignment]  # an import of it fails
    process.set_grpc_defaults()  # as `freshet serve` does
    for package in (grpc_health, grpc_reflection, model, service):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                with contextlib.suppress(ImportError):
                    importlib.import_module(module.name)
    del sys.modules["onnxruntime"]
    spawned.STOP_S = 60.0  # for a trainer to save: no test asserts how long a busy machine takes


def main() -> None:
    import_most()
    gc.freeze()
    request = request_in_a_fork(socket.socket(fileno=int(sys.argv[1])))
    os.setsid()
    os.chdir(request["folder"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["freshet", *request["arguments"]]
    sys.orig_argv = [sys.executable, "-m", "service.cli", *sys.argv[1:]]
    if request["first"]:
        runpy.run_path(request["first"], run_name="sitecustomize")
    runpy.run_module("service.cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
