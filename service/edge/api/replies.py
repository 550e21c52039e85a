"""Replies that are kept for a second, so that many who look at the same cost as little as one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from service.common.limits import MAX_KEPT_REPLIES

KEPT_S = 1.0
Key = tuple[str, str]  # tenant, and path with query


class Replies:
    """Replies by tenant and target. A caller that asks for one that is being made waits for it. For the event loop."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """clock: monotonic seconds."""
        self._clock = clock
        self._kept: dict[Key, tuple[float, asyncio.Task[bytes]]] = {}  # → when it was asked for; the oldest first

    async def get(self, tenant: str, target: str, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return a reply that was asked for less than KEPT_S ago, or make it. Raises what `make` raises."""
        key, now = (tenant, target), self._clock()
        since, task = self._kept.get(key, (0.0, None))
        if task is None or now - since >= KEPT_S:
            self._forget_before(now - KEPT_S)
            task = asyncio.create_task(_made(make))
            self._kept.pop(key, None)
            self._kept[key] = now, task
        try:
            return await asyncio.shield(task)  # a caller that leaves must not end it for the others
        except Exception:
            if (kept := self._kept.get(key)) is not None and kept[1] is task:
                del self._kept[key]
            raise

    def forget(self, tenant: str) -> None:
        """Forget the replies of a tenant, who has changed something."""
        for key in [key for key in self._kept if key[0] == tenant]:
            del self._kept[key]

    def _forget_before(self, moment: float) -> None:
        for key, (since, _) in list(self._kept.items()):
            if since >= moment and len(self._kept) < MAX_KEPT_REPLIES:
                break
            del self._kept[key]


async def _made(make: Callable[[], Awaitable[bytes]]) -> bytes:
    return await make()
