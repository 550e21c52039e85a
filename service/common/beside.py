"""One thread beside the event loop. It runs jobs in order, and wakes the loop once for each."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


class Beside:
    """A thread that runs jobs one after the other, with less to do per job than an executor's. For one event loop.

    Nothing bounds its queue: the caller has few jobs at once. The thread starts with the first job.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, job: Callable[[], Result]) -> asyncio.Future[Result]:
        """Have `job` run after those before it; returns a future of its result or exception.

        Cancelling the future does not stop the job. Raises RuntimeError once closed.
        """
        if self._closed:
            raise RuntimeError(f"thread {self._name}: closed, it runs no more jobs")
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        if self._thread is None:
            # A process that ends without `close` does not wait for it: a write that is cut is a torn tail.
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put((job, done))
        return done

    def close(self) -> None:
        """Wait until all jobs have run, and end the thread. Does nothing when repeated."""
        self._closed = True
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            result, error = None, None
            try:
                result = job()
            except Exception as caught:  # for the one who waits
                error = caught
            with contextlib.suppress(RuntimeError):  # the loop has closed: nothing waits any more
                done.get_loop().call_soon_threadsafe(_settle, done, result, error)


def _settle(done: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if done.done():  # its task was cancelled
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(result)
