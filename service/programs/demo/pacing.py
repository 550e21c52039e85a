"""The pace of the demo: no faster than a person can watch."""

from __future__ import annotations

import asyncio

from service.common.errors import Invalid

SLOWEST, FASTEST = 0.1, 1e6  # ticks per second of a stream
DRIFT_PACE = 100.0  # the change is seen for some seconds, and the whole takes less than two minutes
ALL_STREAMS = 400.0  # ticks per second of all streams together


class Pace:
    """Lets a stream's ticks pass at most `ticks_per_s` a second, evenly; one for each stream.

    A stream that was held up does not hurry afterwards.
    """

    def __init__(self, ticks_per_s: float) -> None:
        self._gap, self._next = 1.0 / ticks_per_s, 0.0

    async def turn(self) -> None:
        """Wait for the next tick's turn."""
        loop = asyncio.get_running_loop()
        wait = self._next - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        self._next = max(self._next, loop.time() - self._gap) + self._gap


def default_pace(streams: int, drifts: bool) -> float:
    """Return the pace of each stream without a wish; 0: as fast as the server learns."""
    if streams > 1:
        return max(2.0, ALL_STREAMS / streams)
    return DRIFT_PACE if drifts else 0.0


def checked_pace(asked: float | None, streams: int, drifts: bool) -> float:
    """Return the pace of each stream; 0: no limit. Raises Invalid for another number outside its range."""
    if asked is None:
        return default_pace(streams, drifts)
    if asked and not SLOWEST <= asked <= FASTEST:
        raise Invalid("pace", asked, f"give {SLOWEST:g} to {FASTEST:g} ticks per second of each stream, or 0: no limit")
    return asked
