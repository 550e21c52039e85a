"""Ticks from a source that may block, iterated over in its own thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence, Sized
from typing import Any

import numpy.typing as npt

from freshet.framed import Rows, framer
from freshet.ticks import NO_KNOWN, Tick, ticks

AHEAD = 16  # ticks fetched in advance


def source(
    values: Any,
    times: Any,
    channels: Callable[[], Sequence[str]],
    ahead: Callable[[npt.NDArray[Any]], None],
    inputs: Callable[[], tuple[Sequence[str], int]] = lambda: NO_KNOWN,
    known: Any = None,
) -> Rows:
    """Return rows for `freshet.Stream.forecasts`, which iterates over them in the event loop and must not block there.

    A source with a length is an array, a list or a frame; any other source may wait, for example for a sensor.
    channels, ahead, inputs, known: as for `ticks`.
    """
    found = ticks(values, times, channels, ahead, inputs, known)
    there = isinstance(values, Sized) and (times is None or isinstance(times, Sized))
    ready = found if there or isinstance(found, AsyncIterator) else pulled(found)
    return Rows(ready, framer(values, times))


async def pulled(source: Iterator[Tick]) -> AsyncIterator[Tick]:
    """Yield the ticks of a source that is iterated over in another thread. An error of the source is raised in its
    place.

    The thread is a daemon: a source that blocks forever delays neither closing nor the exit of the interpreter.
    """
    loop, arrived = asyncio.get_running_loop(), asyncio.Queue[Tick | Exception | None]()
    room, over = threading.Semaphore(AHEAD), threading.Event()

    def deliver(item: Tick | Exception | None) -> None:
        loop.call_soon_threadsafe(arrived.put_nowait, item)

    def pull() -> None:
        last: Exception | None = None
        try:
            for tick in source:
                deliver(tick)
                room.acquire()
                if over.is_set():
                    return
        except Exception as error:
            last = error
        finally:
            deliver(last)

    threading.Thread(target=pull, name="freshet-source", daemon=True).start()
    try:
        while (item := await arrived.get()) is not None:
            if isinstance(item, Exception):
                raise item
            room.release()
            yield item
    finally:
        over.set()
        room.release()
