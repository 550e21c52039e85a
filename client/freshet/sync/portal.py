"""An event loop in a thread of its own, and the way into it for callers that block."""

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
    """An event loop that may still be called when it is closed, to no effect.

    gRPC has one poller for all loops of a process. What comes too late for a loop that is gone must not raise in the
    loop that reads it, or what follows waits there for good.
    """

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """As of any loop."""
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        except RuntimeError:
            if not self.is_closed():
                raise
            return asyncio.Handle(callback, args, self)


class Portal:
    """Runs coroutines in its thread and waits for them in the caller's. Any thread but its own may call it.

    The thread ends at `close`; where that is forgotten, when nothing refers to the portal, or the interpreter ends.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._entering = threading.Lock()  # so that no work arrives behind the end of the loop
        self._loop = Loop()
        self._thread = threading.Thread(target=_run, args=(self._loop,), name="freshet", daemon=True)
        self._thread.start()
        self._finalizer = weakref.finalize(self, _stop, self._loop)
        self._finalizer.atexit = False
        _open.add(self)

    @property
    def closed(self) -> bool:
        """Whether it takes no work any more."""
        return not self._finalizer.alive

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, or what it raises. If the wait is interrupted (Ctrl-C), the work is cancelled."""
        try:
            forks.check()  # before the lock, which another thread may have held at the fork
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
            raise StreamClosed("the client was closed meanwhile") from None
        finally:
            future.cancel()

    def run(self, function: Callable[[], T]) -> T:
        """The same for a function that does not wait."""

        async def work() -> T:
            return function()

        return self.call(work())

    def iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        """Its items, one by one. Leaving the loop early ends the source."""
        try:
            while True:
                try:
                    item = self.call(_next(source))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            with contextlib.suppress(FreshetError, RuntimeError):  # closed, or about to end by itself
                self.call(_end_source(source))

    def close(self) -> None:
        """Cancel what still runs and end the thread. Safe any number of times."""
        if os.getpid() == self._process:
            with self._entering:
                if self._finalizer.detach():
                    _stop(self._loop)
            self._thread.join()

    def _check(self) -> None:
        if threading.current_thread() is self._thread:
            raise FreshetError("this is the client's own thread, which cannot wait for itself: call it from another")
        if self.closed or self._loop.is_closed():
            raise StreamClosed("the client is closed")


def blocking(function: Callable[[], T]) -> T:
    """The result of what neither waits nor needs the thread, in the words of clients that block."""
    try:
        return function()
    except NotOpen as error:
        raise error.blocking() from None


def _run(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop().run_forever()


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    """Without waiting: garbage is collected in any thread, also in one that this loop still needs."""
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
