"""Log a warning while a wait makes no progress, so that a blocked program reports what it waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self

log = logging.getLogger("freshet")

FIRST_S = 5.0  # of waiting without progress before the first warning; each further one takes twice as long
ANYWAY_S = 30.0  # of waiting, with or without progress


class Reported:
    """Context manager around a wait. It warns in the log `freshet` after FIRST_S without progress, then more and more
    rarely.

    describe: returns what is waited for; empty for no warning.
    progress: a number that changes as the wait advances.

    For use in one event loop.
    """

    def __init__(self, describe: Callable[[], str], progress: Callable[[], int]) -> None:
        self._describe, self._progress = describe, progress

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._seen, self._step, self._waited = self._progress(), FIRST_S, 0.0
        self._timer = self._loop.call_later(self._step, self._look)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        self._waited += self._step
        before, self._seen = self._seen, self._progress()
        if (before == self._seen or self._waited >= ANYWAY_S) and (text := self._describe()):
            log.warning("%s (for %.0f s so far)", text, self._waited)
            self._step = self._waited
        self._timer = self._loop.call_later(self._step, self._look)
