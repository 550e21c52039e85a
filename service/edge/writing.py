"""Writing to a client: one message at a time, beside reading, and an end to calls whose client does not read.

gRPC accepts a message once the one before has left; if the client does not read, it never does. A deadline per write
would cost a timer per forecast, so a call only notes when its write began, and `Writers.sweep` checks periodically.

Nor does a forecast wait until it has left: the next message does. Waiting would cost the task of the call another turn
of the loop per message, just to find out what the next write finds out anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, NamedTuple, Protocol

import grpc

from service.common.errors import Exhausted
from service.common.limits import is_overdue
from service.edge.guard.interceptor import MESSAGES, Messages
from service.edge.guard.statuses import CLIENT_GONE, statuses
from service.serving.ticks import Fenced

SILENT_S = 10.0  # after this time without a message, a stream gets progress that no forecast has reported


class Progress(NamedTuple):
    """Seq that is on disk, labels of the call that are, and seq through which labels are judged."""

    durable: int
    labels: int
    judged: int


class Wants:
    """The wishes of one client. spares: it gets progress with its forecasts."""

    __slots__ = ("_durable", "_judged", "_most_unreported", "spares")

    def __init__(self, spares: bool, most_undurable: int) -> None:
        self.spares, self._durable, self._judged = spares, 0, 0
        self._most_unreported = max(1, most_undurable // 4)  # a client stops sending at `most_undurable`

    def expect(self, durable: int, judged: int) -> None:
        """Note that the client waits for these seqs."""
        self._durable, self._judged = max(self._durable, durable), max(self._judged, judged)

    def alone(self, now: Progress, reported: Progress) -> bool:
        """Whether progress is to be sent at once, in a message of its own."""
        if not self.spares or now.labels > reported.labels:
            return True
        if now.durable - reported.durable >= self._most_unreported:
            return True
        return now.durable > reported.durable < self._durable or now.judged > reported.judged < self._judged


class Writing:
    """Reading and writing of one call, with its messages counted.

    Belongs to the task that constructs it; a sweep cancels that task. began: monotonic seconds at which the last write
    began. stuck: the call was cut because its client does not read.
    """

    __slots__ = ("_context", "_left", "_lock", "_messages", "_task", "_write", "began", "stuck")

    def __init__(self, context: Any) -> None:
        self._context, self._lock, self._task = context, asyncio.Lock(), asyncio.current_task()
        self._messages = MESSAGES.get() or Messages()  # outside of calls these counts are unused
        self._write: Coroutine[Any, Any, None] | None = None  # gRPC's, while a write is under way
        self._left: asyncio.Future[Any] | None = None  # what that waits for; None: another turn of the loop
        self.began = 0.0
        self.stuck = False

    @property
    def since(self) -> float | None:
        """Monotonic seconds at which the write under way began; None: none is."""
        return None if self._write is None or (self._left is not None and self._left.done()) else self.began

    async def read(self) -> Any:
        """Return the client's next message, or grpc.aio.EOF after its half-close."""
        message = await self._context.read()
        self._messages.received += message is not grpc.aio.EOF
        return message

    async def post(self, message: Any) -> None:
        """Begin to send one message, after those under way; `idle` waits until it has left.

        Raises what the write before raises.
        """
        if self._lock.locked() or self.since is not None:
            async with self._lock:
                await self._finish()
                self._begin(message)
            return
        if self._write is not None:
            self._step()  # it has left
        self._begin(message)

    async def send(self, message: Any) -> None:
        """Send one message, after those under way, and wait until it has left."""
        async with self._lock:
            await self._finish()
            self._begin(message)
            await self._finish()

    async def idle(self) -> None:
        """Wait until no message is under way."""
        async with self._lock:
            await self._finish()

    @contextlib.asynccontextmanager
    async def whole(self) -> AsyncIterator[None]:
        """Let an error leave the block only when no message is under way: gRPC does not end a call in the middle of a
        write."""
        try:
            yield
        except CLIENT_GONE:
            raise
        except Exception:
            with contextlib.suppress(*CLIENT_GONE):  # ending the call will find that out too
                await self.idle()
            raise

    async def stop(self, task: asyncio.Task[Any]) -> None:
        """Cancel a task of the call between two messages. Half-way, its write would still be under way in gRPC."""
        async with self._lock:
            await self._finish()
            task.cancel()
            await asyncio.wait((task,))

    def _begin(self, message: Any) -> None:
        self._write, self.began = self._context.write(message), time.monotonic()
        self._messages.sent += 1
        self._step()

    def _step(self) -> None:
        """Run gRPC's coroutine up to its next wait, as a task would, but without one. Raises what it raises."""
        assert self._write is not None
        try:
            self._left = self._write.send(None)
        except BaseException as ended:
            self._write = self._left = None
            if not isinstance(ended, StopIteration):
                raise

    async def _finish(self) -> None:
        """Wait until the message under way has left. Raises what its write raises."""
        while self._write is not None:
            if self._left is None:
                await asyncio.sleep(0)
            elif not self._left.done():
                await asyncio.wait((self._left,))  # which a cancellation leaves alone: gRPC still writes
            self._step()

    def drop(self) -> None:
        """Forget the write under way: the call has ended."""
        if self._left is not None and not self._left.cancel() and not self._left.cancelled():
            self._left.exception()  # otherwise asyncio reports an error that was not retrieved
        self._write = self._left = None

    def cut(self) -> None:
        """Cancel the call. The first time it may still report why; the second time it just ends."""
        self.stuck = True
        if self._task is not None:
            self._task.cancel()


class Writers:
    """All calls that write. Each may wait `write_s` seconds for its client to take a message."""

    def __init__(self, write_s: float) -> None:
        self._write_s = write_s
        self._calls: set[Writing] = set()

    @contextlib.asynccontextmanager
    async def call(self, context: Any) -> AsyncIterator[Writing]:
        """Yield the call's `Writing`, watched until the end, with `statuses` around it.

        A call that is cut ends with RESOURCE_EXHAUSTED; one whose client has left just ends.
        """
        writing = Writing(context)
        self._calls.add(writing)
        try:
            async with statuses(context):
                try:
                    async with writing.whole():
                        yield writing
                except CLIENT_GONE:
                    if not context.done():
                        raise
                except asyncio.CancelledError:
                    this = asyncio.current_task()
                    if not writing.stuck or this is None or this.uncancel():
                        raise
                    remedy = "read the answers; then connect again"
                    raise Exhausted("call", "its client does not read", remedy, retry_s=1.0) from None
        finally:
            self._calls.discard(writing)
            writing.drop()

    def sweep(self, now: float) -> int:
        """Cut the calls whose message has waited too long. Returns how many are cut for the first time.

        now: monotonic seconds.
        """
        late = [call for call in self._calls if is_overdue(call.since, now, self._write_s)]
        fresh = sum(not call.stuck for call in late)
        for call in late:
            call.began = now  # reporting why may take as long again
            call.cut()
        return fresh

    async def run(self, cut: Any) -> None:
        """Sweep four times per `write_s`. cut: a counter of the calls that were cut."""
        while True:
            await asyncio.sleep(self._write_s / 4)
            cut.inc(self.sweep(time.monotonic()))


class Serialised(grpc.aio.ServerInterceptor):
    """Lets the methods of `METHODS` send messages that are serialised already, as bytes."""

    METHODS = (
        "/freshet.v1.Streams/Open",
        "/inference.GRPCInferenceService/ModelInfer",
        "/inference.GRPCInferenceService/ModelStreamInfer",
    )

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the method's handler, with a serialiser that leaves bytes as they are."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method not in self.METHODS:
            return handler  # type: ignore[no-any-return]
        own = handler.response_serializer
        return handler._replace(  # type: ignore[no-any-return]
            response_serializer=lambda message: message if type(message) is bytes else own(message)
        )


class Duplex(Protocol):
    """A call with two sides that share one `Writing`."""

    context: Any
    writing: Writing

    async def serve(self) -> None:
        """Answer messages until the half-close. Raises Fenced when another call owns the streams."""
        ...

    async def report_progress(self) -> None:
        """Report progress. Returns when the server must end the call."""
        ...

    async def leave(self) -> None:
        """Report why the server ends the call, and end it."""
        ...

    def end(self) -> None:
        """Release everything that the call holds."""
        ...


async def both_sides(call: Duplex) -> None:
    """Run both sides until one ends, then cancel the other and release what the call holds."""
    reading = asyncio.create_task(call.serve())
    tasks = reading, asyncio.create_task(call.report_progress())
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        if reading not in done:
            await call.writing.stop(reading)
            await call.leave()
    except Fenced:
        await call.leave()
    finally:
        call.end()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
