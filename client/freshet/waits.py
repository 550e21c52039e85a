"""Waits for answers of the server: re-tested after each message, ended after too long without progress."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from freshet.errors import Unavailable

AT_LEAST_S = 30.0  # with give_up_s = 0 calls are not repeated, but answers to the first call still take time

Wanted = tuple[str, Callable[[], object]]


class Waits:
    """The waits of one stream, Mux or sender. A wait holds no state, so it may be cancelled at any moment.

    give_up_s: how long a wait may see no progress, seconds; 0 stands for AT_LEAST_S.
    check: raises the error that ended the object, if any.
    """

    def __init__(self, give_up_s: float, check: Callable[[], None]) -> None:
        self.give_up_s, self._check = give_up_s or AT_LEAST_S, check
        self.last_call = ""  # how the last call ended, for messages
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Make every wait test its condition again."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, done: Callable[[], bool], wanted: Wanted | None = None) -> None:
        """Wait until `done()`; it is tested after each `notify`.

        wanted: a description of the wait for error messages, and its progress. Without a change of the progress for
        `give_up_s`, Unavailable is raised. None: the wait has no limit, because it does not depend on the server. Also
        raises what `check` raises.
        """
        loop = asyncio.get_running_loop()
        since, seen = loop.time(), wanted and wanted[1]()
        while not done():
            self._check()
            waiter: asyncio.Future[None] = loop.create_future()
            timer = wanted and loop.call_at(since + self.give_up_s, _wake, waiter)
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
                if timer:
                    timer.cancel()
            if wanted and not done():
                now = loop.time()
                if (come := wanted[1]()) != seen:
                    since, seen = now, come
                elif now - since >= self.give_up_s:
                    self._check()
                    raise self.gave_up(wanted[0])

    async def outcome(self, future: asyncio.Future[None], wanted: Wanted) -> None:
        """Wait for a future with the limit of `until`; raises its error. Cancelling this wait does not cancel the
        future."""
        loop = asyncio.get_running_loop()
        since, seen = loop.time(), wanted[1]()
        while not future.done():
            await asyncio.wait({future}, timeout=since + self.give_up_s - loop.time())
            if (come := wanted[1]()) != seen:
                since, seen = loop.time(), come
            elif not future.done() and loop.time() - since >= self.give_up_s:
                raise self.gave_up(wanted[0])
        future.result()

    def gave_up(self, what: str) -> Unavailable:
        """Return the error for a wait without progress. The caller raises it."""
        why = self.last_call or "it is still open"
        return Unavailable(f"no success for {self.give_up_s:g} s, waiting for {what}; the last call: {why}")


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
