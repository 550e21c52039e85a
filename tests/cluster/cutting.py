"""Cut a shard off from its store in the middle of its life."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any

from tests.cluster.faulty import Faulty


class Cut:
    """Cuts the store off at write number `n`: before it is done, or after. writes: the operations that count."""

    def __init__(self, store: Faulty, n: int, after: bool, writes: Collection[str]) -> None:
        self._store, self._left, self._after, self._writes = store, n, after, writes
        self.happened, self._loop = asyncio.Event(), asyncio.get_running_loop()
        store.before = self._look

    def _look(self, operation: str) -> None:
        self._left -= operation in self._writes
        if self._left < 0 and not self.happened.is_set():
            if self._after and self._left == -1:
                self._store.errors_after[operation] = 1
                return
            self._store.down = lambda operation: True
            self._loop.call_soon_threadsafe(self.happened.set)


async def until_cut(
    life: Coroutine[Any, Any, None], cut: Cut, refusals: tuple[type[Exception], ...]
) -> tuple[bool, BaseException | None]:
    """Live until the cut or the end; return whether the life ended before the cut, and the refusal that ended it."""
    living, happened = asyncio.create_task(life), asyncio.create_task(cut.happened.wait())
    await asyncio.wait([living, happened], return_when=asyncio.FIRST_COMPLETED)
    for task in (living, happened):
        task.cancel()
    await asyncio.wait([living, happened])
    error = None if living.cancelled() else living.exception()
    assert error is None or isinstance(error, refusals), error
    return not living.cancelled() and error is None and not cut.happened.is_set(), error
