"""Events reach whoever watches, in order and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from service.events import CREATED, PUBLISHED, QUEUE, Event, Events


def event(number: int, model: str = "m", kind: int = PUBLISHED) -> Event:
    return Event(model, kind, offset=number, version=number, reason="due", time=float(number))


async def begun(watch: AsyncIterator[Event]) -> asyncio.Task[Event]:
    """The first event of a watch, which is under way on return."""
    first = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    return first  # type: ignore[return-value]


async def test_a_watcher_gets_what_happens_from_then_on_in_order():
    events = Events()
    events.emit(event(1))
    watch = events.watch("")
    first = await begun(watch)

    for number in (2, 3, 4):
        events.emit(event(number))

    assert [(await first).version, (await anext(watch)).version, (await anext(watch)).version] == [2, 3, 4]


async def test_a_watch_of_one_model_passes_over_the_others():
    events = Events()
    watch = events.watch("mine")
    first = await begun(watch)

    events.emit(event(1, "other"))
    events.emit(event(2, "mine", CREATED))

    assert (await first) == event(2, "mine", CREATED)


async def test_every_watcher_gets_every_event():
    events = Events()
    watches = [events.watch("") for _ in range(3)]
    firsts = [await begun(watch) for watch in watches]

    events.emit(event(1))

    assert [await first for first in firsts] == [event(1)] * 3


async def test_a_watcher_that_does_not_read_loses_the_oldest_and_holds_up_nobody():
    events = Events()
    slow, quick = events.watch(""), events.watch("")
    first_of_slow, first_of_quick = await begun(slow), await begun(quick)
    events.emit(event(0))
    assert (await first_of_quick).version == 0
    await first_of_slow

    for number in range(1, QUEUE + 11):
        events.emit(event(number))
        assert (await anext(quick)).version == number

    assert (await anext(slow)).version == 11  # 1 to 10 are lost
    assert (await anext(slow)).version == 12


@pytest.mark.parametrize("waiting", [0, QUEUE])
async def test_closing_ends_every_watch_even_a_full_one(waiting):
    events = Events()
    watch = events.watch("")
    first = await begun(watch)
    events.emit(event(0))
    await first
    for number in range(1, waiting + 1):
        events.emit(event(number))

    events.close()

    assert [e.version async for e in watch] == list(range(2, waiting + 1))  # the end took the oldest's place


async def test_a_watcher_that_left_is_forgotten():
    events = Events()
    watch = events.watch("")
    first = await begun(watch)
    events.emit(event(1))
    await first

    await watch.aclose()  # type: ignore[attr-defined]

    assert not events._watchers
