"""Servers forked from a process that has already imported the server's modules, which takes a second of a core.

A forked server is a process like any other: it runs `service.cli` with `serve`, its own arguments, environment, pipes
and session. A server that must run other code first (`crash.mutate`), or whose lines are counted, starts by command.

`spawn` alone runs this module: `python -m tests.journeys.preloaded FD`, where FD is a listening Unix socket.
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
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import grpc_health
import grpc_reflection

import model
import service
from service.programs.backtest import child
from service.server import process

REQUEST_BYTES = 1 << 20
MEASURED = "COVERAGE_PROCESS_CONFIG"  # set while coverage counts lines in each process

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

start_as_command = child.spawn


def sitecustomize() -> str | None:
    """Return the file that Python runs first if it starts with this sys.path."""
    importlib.invalidate_caches()
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    return spec.origin if spec else None


ORDINARY = sitecustomize()


class Forked:
    """A forked server, with the part of asyncio.subprocess.Process that ServerChild uses."""

    def __init__(self, pid: int, stdin: BinaryIO, stdout: asyncio.StreamReader, status: Connection) -> None:
        """status: the connection that brings a line with the exit code when the process has ended."""
        self.pid, self.stdin, self.stdout, self._status = pid, stdin, stdout, status
        self.returncode: int | None = None
        self._ended = asyncio.create_task(self._end())

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int) -> None:
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    async def _end(self) -> int:
        reader, writer = self._status
        self.returncode = int(await reader.readline())
        self.stdin.close()
        writer.close()
        return self.returncode


async def spawn(flags: Sequence[str], log: BinaryIO) -> asyncio.subprocess.Process:
    """Start a server; replaces `child.spawn`."""
    if sitecustomize() != ORDINARY or MEASURED in os.environ:
        return await start_as_command(flags, log)
    (read_in, write_in), (read_out, write_out) = os.pipe(), os.pipe()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(preloaded().address)
    request = {"flags": flags, "environment": environment(), "umask": umask(), "folder": os.getcwd()}
    socket.send_fds(connection, [json.dumps(request).encode()], [read_in, write_out, log.fileno()])
    os.close(read_in)
    os.close(write_out)
    connection.setblocking(False)
    status = await asyncio.open_unix_connection(sock=connection)
    stdout = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stdout), os.fdopen(read_out, "rb", buffering=0)
    )
    pid = int(await status[0].readline())
    forked = Forked(pid, os.fdopen(write_in, "wb", buffering=0), stdout, status)
    return cast(asyncio.subprocess.Process, forked)


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


def main() -> None:
    import_most()
    gc.freeze()
    request = request_in_a_fork(socket.socket(fileno=int(sys.argv[1])))
    os.setsid()
    os.chdir(request["folder"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["freshet", "serve", "--with-parent", *request["flags"]]
    runpy.run_module("service.cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
