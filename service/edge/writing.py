"""The way back to a client: one message at a time, and an end to those that nobody reads.

gRPC takes the next message once the one before has left; with a client that does not read, that is never. A deadline
per write would cost a timer per forecast, so a call only notes since when it waits, and `sweep` looks now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from service.common.errors import Exhausted
from service.common.limits import is_overdue
from service.edge.guard.interceptor import MESSAGES, Messages
from service.edge.guard.statuses import CLIENT_GONE, statuses


class Writing:
    """One call's messages, counted, and above all its way back. Belongs to the task that it was made in, which is the
    one that a sweep cancels."""

    __slots__ = ("_context", "_lock", "_messages", "_task", "since", "stuck")

    def __init__(self, context: Any) -> None:
        self._context, self._lock, self._task = context, asyncio.Lock(), asyncio.current_task()
        self._messages = MESSAGES.get() or Messages()  # outside of calls, some that nobody looks at
        self.since: float | None = None  # monotonic seconds: when the message under way was handed over
        self.stuck = False  # cut for that

    async def read(self) -> Any:
        """The client's next message; grpc.aio.EOF once it says no more."""
        message = await self._context.read()
        self._messages.received += message is not grpc.aio.EOF
        return message

    async def send(self, message: Any) -> None:
        """Send one message, after those under way."""
        async with self._lock:
            self.since = time.monotonic()
            await self._context.write(message)
            self.since = None
            self._messages.sent += 1

    async def idle(self) -> None:
        """Wait until no message is under way."""
        async with self._lock:
            pass

    async def stop(self, task: asyncio.Task[Any]) -> None:
        """Cancel a task of the call between two messages: one cancelled half-way would still be under way in gRPC."""
        async with self._lock:
            task.cancel()
            await asyncio.wait((task,))

    def cut(self) -> None:
        """End the call: at first it may still say why; a second time it just ends."""
        self.stuck = True
        if self._task is not None:
            self._task.cancel()


class Writers:
    """All calls that write, and how long each may wait for its client: `write_s` seconds."""

    def __init__(self, write_s: float) -> None:
        self._write_s = write_s
        self._calls: set[Writing] = set()

    @contextlib.asynccontextmanager
    async def call(self, context: Any) -> AsyncIterator[Writing]:
        """`statuses`, and the call's way back, watched to the end. A call that is cut is told why; one whose client has
        left ends."""
        writing = Writing(context)
        self._calls.add(writing)
        try:
            async with statuses(context):
                try:
                    yield writing
                except CLIENT_GONE:
                    if not context.done():
                        raise
                except asyncio.CancelledError:
                    this = asyncio.current_task()
                    if not writing.stuck or this is None or this.uncancel():
                        raise
                    remedy = "read on, then connect again"
                    raise Exhausted("call", "its client does not read", remedy, retry_s=1.0) from None
        finally:
            self._calls.discard(writing)

    def sweep(self, now: float) -> int:
        """Cut the calls whose message has waited for too long at `now`, monotonic seconds; how many were cut anew."""
        late = [call for call in self._calls if is_overdue(call.since, now, self._write_s)]
        fresh = sum(not call.stuck for call in late)
        for call in late:
            call.since = now  # saying why may take as long again
            call.cut()
        return fresh

    async def run(self, cut: Any) -> None:
        """Sweep four times per `write_s`. cut: a counter of the calls that were cut."""
        while True:
            await asyncio.sleep(self._write_s / 4)
            cut.inc(self.sweep(time.monotonic()))
