"""An event loop in its own thread, and the way into it for callers that block."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import contextvars
import os
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar, TypeVarTuple

from freshet import forks
from freshet.errors import FreshetError, NotOpen, StreamClosed

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose `call_soon_threadsafe` has no effect after the loop is closed.

    gRPC has one poller for all loops of a process. A late callback for a closed loop must not raise in the loop that
    reads it, or later callbacks wait there forever.
    """

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Schedule the callback; do nothing if the loop is closed."""
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        except RuntimeError:
            if not self.is_closed():
                raise
            return asyncio.Handle(callback, args, self)


class Portal:
    """Runs coroutines in its own thread and waits for them in the caller's. Any other thread may call it.

    The thread ends at `close`; without it, when nothing refers to the portal any more, or when the interpreter exits.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._entering = threading.Lock()  # no work is submitted after the loop ends
        self._loop = Loop()
        self._thread = threading.Thread(target=_run, args=(self._loop,), name="freshet", daemon=True)
        self._thread.start()
        self._finalizer = weakref.finalize(self, _stop, self._loop)
        self._finalizer.atexit = False
        _open.add(self)

    @property
    def closed(self) -> bool:
        """Whether the portal accepts no more work."""
        return not self._finalizer.alive

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` and return its result, or raise its error. If the wait is interrupted (Ctrl-C), the work is
        cancelled."""
        try:
            forks.check()  # before the lock: another thread may have held it at the fork
            with self._entering:
                self._check()
                future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except FreshetError:
            work.close()
            raise
        try:
            return future.result()
        except NotOpen as error:
            raise error.blocking() from None
        except concurrent.futures.CancelledError:
            raise StreamClosed("the client was closed during the call") from None
        finally:
            future.cancel()

    def run(self, function: Callable[[], T]) -> T:
        """Call a function that does not wait in the portal's thread, and return its result."""

        async def work() -> T:
            return function()

        return self.call(work())

    def iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        """Iterate over the items of `source`. Leaving the loop early ends the source."""
        try:
            while True:
                try:
                    item = self.call(_next(source))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            with contextlib.suppress(FreshetError, RuntimeError):  # the client is closed, or the source is ending
                self.call(_end_source(source))

    def close(self) -> None:
        """Cancel running work and end the thread. Safe to repeat."""
        if os.getpid() == self._process:
            with self._entering:
                if self._finalizer.detach():
                    _stop(self._loop)
            self._thread.join()

    def _check(self) -> None:
        if threading.current_thread() is self._thread:
            raise FreshetError(
                "this is the client's own thread, which cannot wait for itself: call from another thread"
            )
        if self.closed or self._loop.is_closed():
            raise StreamClosed("the client is closed")


def blocking(function: Callable[[], T]) -> T:
    """Return the result of a function that neither waits nor needs the thread, with errors worded for the blocking
    form."""
    try:
        return function()
    except NotOpen as error:
        raise error.blocking() from None


def _run(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop().run_forever()


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    """Stop the loop without waiting: garbage collection runs in any thread, even one that this loop still needs."""
    loop.call_soon_threadsafe(loop.stop)


_open: weakref.WeakSet[Portal] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for portal in list(_open):
        portal.close()


async def _next(source: AsyncIterator[T]) -> T:
    return await anext(source)


async def _end_source(source: AsyncIterator[Any]) -> None:
    if isinstance(source, AsyncGenerator):
        await source.aclose()
