"""Ticks from a source that may block, walked over in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator, Iterator, Sized
from typing import Any

from freshet.ticks import Tick, ticks

AHEAD = 16  # ticks that are fetched before anyone asks for them


def without_blocking(values: Any, times: Any) -> tuple[Any, Any]:
    """What `freshet.Stream.forecasts` takes, so that walking over it does not hold up the event loop.

    What has a length is an array, a list, a frame, and stays as it is; anything else may wait for a sensor.
    """
    if isinstance(values, Sized):
        apart = times is not None and not isinstance(times, Sized)
        return values, list(itertools.islice(times, len(values) + 1)) if apart else times
    source = ticks(values, times)
    return source if isinstance(source, AsyncIterator) else pulled(source), None


async def pulled(source: Iterator[Tick]) -> AsyncIterator[Tick]:
    """The ticks of a source that is walked over in another thread. What it raises comes in its place.

    The thread is a daemon: a source that waits for good holds up neither closing nor the end of the interpreter.
    """
    loop, come = asyncio.get_running_loop(), asyncio.Queue[Tick | Exception | None]()
    room, over = threading.Semaphore(AHEAD), threading.Event()

    def tell(item: Tick | Exception | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(come.put_nowait, item)

    def pull() -> None:
        last: Exception | None = None
        try:
            for tick in source:
                tell(tick)
                room.acquire()
                if over.is_set():
                    return
        except Exception as error:
            last = error
        finally:
            tell(last)

    threading.Thread(target=pull, name="freshet-source", daemon=True).start()
    try:
        while (item := await come.get()) is not None:
            if isinstance(item, Exception):
                raise item
            room.release()
            yield item
    finally:
        over.set()
        room.release()
