"""What a long wait waits for, said in the log: a program that stands still should not do so without a word."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self

log = logging.getLogger("freshet")

FIRST_S = 5.0  # of waiting before the first word; each further one comes after twice as long


class Reported:
    """Around a wait: a warning in the log `freshet` after FIRST_S, and then whenever the wait has doubled.

    describe: what is waited for, asked at that time; empty where there is nothing to say. For use in one event loop.
    """

    def __init__(self, describe: Callable[[], str]) -> None:
        self._describe = describe

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._waited = FIRST_S
        self._timer = self._loop.call_later(FIRST_S, self._report)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()

    def _report(self) -> None:
        if text := self._describe():
            log.warning("%s (for %.0f s so far)", text, self._waited)
        self._timer = self._loop.call_later(self._waited, self._report)
        self._waited *= 2
