"""A process that another has forked: the part of asyncio.subprocess.Process that ServerChild and tests use."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import BinaryIO

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Forked:
    """One that was forked, with its pipes."""

    def __init__(
        self,
        pid: int,
        status: Connection,
        stdin: BinaryIO | None,
        stdout: asyncio.StreamReader,
        stderr: asyncio.StreamReader | None = None,
    ) -> None:
        """status: the connection that brings a line with the exit code when the process has ended."""
        self.pid, self._status, self.stdin, self.stdout, self.stderr = pid, status, stdin, stdout, stderr
        self.returncode: int | None = None
        self._ended = asyncio.create_task(self._end())

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    async def communicate(self) -> tuple[bytes, bytes | None]:
        out, err = await asyncio.gather(self.stdout.read(), self.stderr.read() if self.stderr else asyncio.sleep(0))
        await self.wait()
        return out, err

    def send_signal(self, number: int) -> None:
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    async def _end(self) -> int:
        reader, writer = self._status
        self.returncode = int(await reader.readline())
        if self.stdin:
            self.stdin.close()
        writer.close()
        return self.returncode
