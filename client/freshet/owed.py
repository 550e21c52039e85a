"""Cuts a call that owes an answer for too long: its server is stuck, or half of the connection is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Owed:
    """Since when one call has been silent although it owes an answer.

    owes: whether an answer is outstanding now. answer_s: the longest silence then, seconds. late: the call was cut. For
    use in one event loop, from the opening of the call on.
    """

    def __init__(self, owes: Callable[[], bool], answer_s: float) -> None:
        self._owes, self._answer_s = owes, answer_s
        self._since = asyncio.get_running_loop().time()
        self.late = False

    @property
    def silent_s(self) -> float:
        """Seconds since the last message; while nothing is owed, of the last look."""
        return asyncio.get_running_loop().time() - self._since

    def heard(self) -> None:
        """Record a message."""
        self._since = asyncio.get_running_loop().time()

    async def watch(self, call: Any) -> None:
        """Cut the call, never earlier than after `answer_s` of owing an answer, and at most half as much later."""
        owed = False
        while True:
            await asyncio.sleep(self._answer_s / 4)
            before, owed = owed, self._owes()
            if not (before and owed):
                self.heard()
            elif self.silent_s >= self._answer_s:
                self.late = True
                call.cancel()
