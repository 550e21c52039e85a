"""A TCP proxy that can fall silent, as behind a cable that is pulled or a firewall that forgets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self


class Proxy:
    """Carries connections to a port. Those that are open at `silence` stay open and hear nothing more."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._silent = asyncio.Event()  # for the connections of now
        self._moved = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.connections = 0
        self.sent = 0  # times that a client has sent something

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def silence(self) -> None:
        """Carry nothing more on what is connected now, without a word to either side."""
        self._silent.set()
        self._silent = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it is true, looked at whenever a client has connected or sent something."""
        async with self._moved:
            await self._moved.wait_for(condition)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        for copying in (self._copy(reader, back, self._silent), self._copy(there, writer, self._silent, theirs=True)):
            self._tasks.add(asyncio.create_task(copying))

    async def _copy(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, silent: asyncio.Event, theirs: bool = False
    ) -> None:
        while (data := await source.read(1 << 16)) and not silent.is_set():
            sink.write(data)
            self.sent += not theirs
            async with self._moved:
                self._moved.notify_all()
        if not silent.is_set():
            sink.close()
