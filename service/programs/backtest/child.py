"""A freshet server as a child process: start, wait until ready, stop, kill, restart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from service.console.failures import ServerFailed

READY = re.compile(r"ready grpc=(?P<grpc>\S+) http=(?P<http>\S+)")
START_S = 60.0  # imports on a cold disk, and recovery
STOP_S = 20.0  # more than the server's own drain_s
SHOWN_LINES = 5


class ServerChild:
    """One server at a time, on one data directory, for one event loop; `async with` starts and stops it.

    The server's standard input is a pipe from this process, and the server drains when it closes, so that no server
    outlives this process. Ctrl-C reaches this process only, which then stops the server.
    """

    def __init__(
        self,
        data: Path,
        log: Path,
        *,
        listen: str = "127.0.0.1:0",
        http: str = "127.0.0.1:0",
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """log: file to append standard error to. settings: more fields of ServeConfig."""
        self.data = data
        self._log = log
        self._flags = {"data": data, "listen": listen, "http": http, **(settings or {})}
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self.grpc = self.http = ""  # HOST:PORT, once started

    @property
    def pid(self) -> int:
        """Id of the current or last process. Raises RuntimeError before the first start."""
        return self._started().pid

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.returncode is None

    async def start(self, deadline_s: float | None = None) -> None:
        """Start the server and wait until it is ready. Raises ServerFailed, after which no process is left running.

        deadline_s: None: START_S.
        """
        if self.running:
            raise RuntimeError("this server runs already")
        deadline_s = START_S if deadline_s is None else deadline_s
        given = ((f"--{name.replace('_', '-')}", value) for name, value in self._flags.items())
        flags = [word for name, value in given for word in ((name,) if value is True else (name, str(value)))]
        with self._log.open("ab") as log:
            self._process = await spawn(flags, log)
        try:
            await asyncio.wait_for(self._until_ready(), deadline_s)
        except TimeoutError:
            await self._end()
            raise ServerFailed(f"the server was not ready after {deadline_s:g} s{self.last_words()}") from None
        except BaseException:
            await self._end()
            raise

    async def wait(self) -> int:
        """Wait until the process has ended and return its exit code, negative for a signal."""
        return await self._started().wait()

    async def stop(self, grace_s: float | None = None) -> int:
        """Let the server drain, kill it after `grace_s` seconds (None: STOP_S), and return its exit code."""
        with contextlib.suppress(ProcessLookupError):
            self._started().terminate()
        try:
            return await asyncio.wait_for(self.wait(), STOP_S if grace_s is None else grace_s)
        except TimeoutError:
            return await self._end()

    def kill(self) -> None:
        """Send SIGKILL, without waiting."""
        with contextlib.suppress(ProcessLookupError):
            self._started().send_signal(signal.SIGKILL)

    def let_go(self) -> None:
        """Close the server's standard input, as the end of this process would."""
        stdin = self._started().stdin
        assert stdin is not None
        stdin.close()

    def last_words(self) -> str:
        """Return the last lines of the log after a colon; empty without any."""
        with contextlib.suppress(OSError), self._log.open(encoding="utf-8", errors="replace") as file:
            lines = deque(file, SHOWN_LINES)
            return ":\n" + "".join(lines).rstrip() if lines else ""
        return ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            await self.stop()

    async def _until_ready(self) -> None:
        process = self._started()
        assert process.stdout is not None
        async for line in process.stdout:
            ready = addresses(line.decode().strip())
            if ready:
                self.grpc, self.http = ready["grpc"], ready["http"]
                self._reader = asyncio.create_task(_drain(process.stdout))
                return
        code = await process.wait()
        raise ServerFailed(f"the server ended with exit code {code} before it was ready{self.last_words()}")

    async def _end(self) -> int:
        self.kill()
        return await self.wait()

    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError("this server was never started")
        return self._process


async def spawn(flags: Sequence[str], log: BinaryIO) -> asyncio.subprocess.Process:
    """Start `freshet serve --with-parent` in a session of its own, with pipes for its standard input and output.

    log: the file for its standard error.
    """
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service.cli", "serve", "--with-parent", *flags,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    )  # fmt: skip


def addresses(line: str) -> Mapping[str, str] | None:
    """Return `grpc` and `http` from the line, text or JSON, that announces a server; None for another line."""
    if line.startswith("{"):
        facts: dict[str, str] = json.loads(line)
        return facts if facts["event"] == "ready" else None
    found = READY.fullmatch(line)
    return found.groupdict() if found else None


async def _drain(stdout: asyncio.StreamReader) -> None:
    """Read until the end, so that the pipe never fills."""
    while await stdout.read(1 << 16):
        pass


def free_port() -> int:
    """Return a port of this machine that is free now, for a server that restarts at the same address.

    It is below those that the system gives to connections, which could take it between two starts.
    """
    while True:
        with (
            contextlib.suppress(OSError),  # taken
            socket.create_server(("127.0.0.1", random.SystemRandom().randrange(20_000, 32_000))) as probe,
        ):
            return int(probe.getsockname()[1])
