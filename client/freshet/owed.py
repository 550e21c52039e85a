"""Cuts a call that owes an answer for too long: its server is stuck, or half of the connection is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

LOOKS = 4  # at a call in every `answer_s`


class Owed:
    """Looks at one call of a stream or a Mux, and cuts it once it is late.

    It is late at the look number LOOKS + 1 in a row that finds an answer outstanding and no message come since the look
    before. So no call is cut before it has owed an answer in silence for `answer_s`, however long it was silent before
    it owed one, and a late one at most a quarter of `answer_s` after that. Looks are counted instead of seconds because
    a program may hold up its event loop for longer: what has come meanwhile is only read afterwards, beside one look.

    owes: whether an answer is outstanding now; only a message may end that. answer_s: seconds, above 0. quiet: called
    at each look at which none is. late: the call was cut. For use in one event loop, from the opening of the call on.
    """

    def __init__(self, owes: Callable[[], bool], answer_s: float, quiet: Callable[[], None] = lambda: None) -> None:
        self._owes, self._answer_s, self._quiet = owes, answer_s, quiet
        self._since = asyncio.get_running_loop().time()
        self._found = 0  # looks since the last message that found an answer outstanding
        self.late = False

    @property
    def silent_s(self) -> float:
        """Seconds since the last message, or since the opening."""
        return asyncio.get_running_loop().time() - self._since

    @property
    def cut(self) -> str:
        """Why the call was cut, in words."""
        return f"cut: no answer for {self._answer_s:g} s" if self.late else "cut: the server was shutting down"

    def heard(self) -> None:
        """Record a message."""
        self._since = asyncio.get_running_loop().time()
        self._found = 0

    def look(self) -> None:
        """Look at the call once."""
        if not self._owes():
            self._found = 0
            self._quiet()
        else:
            self._found += 1
            self.late = self._found > LOOKS

    async def watch(self, call: Any) -> None:
        """Look at the call until it is late, then cut it."""
        while not self.late:
            await asyncio.sleep(self._answer_s / LOOKS)
            self.look()
        call.cancel()
