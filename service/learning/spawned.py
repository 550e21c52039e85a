"""One running trainer process: start it, write and read messages, stop it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator

from service.observe.logs import forward_stream
from service.trainer.channel import Decoder, encode
from service.trainer.messages import Message, Stop

READ_BYTES = 1 << 20
STOP_S = 5.0

# One BLAS thread: more would take the cores that serving uses.
ENVIRONMENT = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Spawned:
    """A trainer process and its pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout
        self._logging = asyncio.create_task(forward_stream(process.stderr, "trainer", pid=process.pid))

    @classmethod
    async def start(cls) -> Spawned:
        """Start a process. Raises OSError."""
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "service.trainer.process",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **ENVIRONMENT},
                start_new_session=True,  # Ctrl-C is for serving, which then stops its trainer in order
            )
        )  # fmt: skip

    @property
    def pid(self) -> int | None:
        """The process id while it runs, else None."""
        return self._process.pid if self._process.returncode is None else None

    @property
    def exit_code(self) -> int | None:
        """The exit code once it has ended, else None."""
        return self._process.returncode

    def write(self, *messages: Message) -> None:
        """Send messages, without waiting; does nothing once the pipe is closed."""
        if not self._stdin.is_closing():
            self._stdin.write(b"".join(map(encode, messages)))

    async def drain(self) -> None:
        """Wait until the process has read nearly all that was written. Raises ConnectionError."""
        await self._stdin.drain()

    async def messages(self) -> AsyncIterator[Message]:
        """The messages of the process, until its output ends. Raises MessageError."""
        decoder = Decoder()
        while data := await self._stdout.read(READ_BYTES):
            for message in decoder.feed(data):
                yield message

    def kill(self) -> None:
        """Kill it; does nothing if it has ended."""
        if self._process.returncode is None:
            self._process.kill()

    async def stop(self) -> None:
        """Ask it to save and end, kill it after STOP_S, and log what it wrote to standard error last."""
        if self._process.returncode is None:
            self.write(Stop())
            self._stdin.close()
            try:
                # Its last messages must be read, or a full pipe keeps it from ending.
                async with asyncio.timeout(STOP_S):
                    await asyncio.gather(self._stdout.read(), self._process.wait())
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        with contextlib.suppress(TimeoutError):  # a child of its own may hold standard error open
            await asyncio.wait_for(self._logging, STOP_S)
