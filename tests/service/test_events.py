"""Events reach their watchers, in order and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from service.common.names import ModelKey
from service.observe.events import CREATED, DELETED, PUBLISHED, QUEUE, REMEMBERED, Event, Events
from tests.service.one_process import key


def event(number: int, model: str = "m", kind: int = PUBLISHED) -> Event:
    return Event(key(model), kind, offset=number, version=number, reason="due", time=float(number))


async def begun(watch: AsyncIterator[Event]) -> asyncio.Task[Event]:
    """Start a watch and return its first event, awaited."""
    first = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    return first


async def test_a_watcher_gets_later_events_in_order():
    events = Events()
    events.emit(event(1))
    watch = events.watch(key(""))
    first = await begun(watch)

    for number in (2, 3, 4):
        events.emit(event(number))

    assert [(await first).version, (await anext(watch)).version, (await anext(watch)).version] == [2, 3, 4]


async def test_a_watch_of_one_model_gets_no_event_of_another():
    events = Events()
    watch = events.watch(key("mine"))
    first = await begun(watch)

    events.emit(event(1, "other"))
    events.emit(event(2, "mine", CREATED))

    assert (await first) == event(2, "mine", CREATED)


async def test_every_watcher_gets_every_event():
    events = Events()
    watches = [events.watch(key("")) for _ in range(3)]
    firsts = [await begun(watch) for watch in watches]

    events.emit(event(1))

    assert [await first for first in firsts] == [event(1)] * 3


async def test_a_watcher_that_does_not_read_loses_the_oldest_events_and_delays_no_other():
    events = Events()
    slow, quick = events.watch(key("")), events.watch(key(""))
    first_of_slow, first_of_quick = await begun(slow), await begun(quick)
    events.emit(event(0))
    assert (await first_of_quick).version == 0
    await first_of_slow

    for number in range(1, QUEUE + 11):
        events.emit(event(number))
        assert (await anext(quick)).version == number

    assert (await anext(slow)).version == 11  # 1 to 10 are lost
    assert (await anext(slow)).version == 12


async def test_a_watcher_that_does_not_read_loses_no_event_to_other_models():
    events = Events()
    watch = events.watch(key("mine"))
    first = await begun(watch)
    for number in range(3):
        events.emit(event(number, "mine"))

    for number in range(QUEUE + 1):
        events.emit(event(number, "other"))
        events.emit(Event(ModelKey("another tenant", "mine"), PUBLISHED, number, number, "due", float(number)))

    assert [(await first).version, (await anext(watch)).version, (await anext(watch)).version] == [0, 1, 2]


@pytest.mark.parametrize("waiting", [0, QUEUE])
async def test_closing_ends_every_watch_even_a_full_one(waiting):
    events = Events()
    watch = events.watch(key(""))
    first = await begun(watch)
    events.emit(event(0))
    await first
    for number in range(1, waiting + 1):
        events.emit(event(number))

    events.close()

    assert [e.version async for e in watch] == list(range(2, waiting + 1))  # the end replaced the oldest event


async def test_a_watcher_that_left_is_forgotten():
    events = Events()
    watch = events.watch(key(""))
    first = await begun(watch)
    events.emit(event(1))
    await first

    await watch.aclose()

    assert not events._watchers


def test_the_last_events_of_a_model_are_remembered_until_it_is_deleted():
    events = Events()
    for number in range(REMEMBERED + 10):
        events.emit(event(number, "mine"))
        events.emit(event(number, "other"))

    assert [e.version for e in events.recent(key("mine"), 3)] == [REMEMBERED + 7, REMEMBERED + 8, REMEMBERED + 9]
    assert len(events.recent(key("mine"), 10**6)) == REMEMBERED
    assert [(e.key.name, e.version) for e in events.recent(key(""), 2)] == [
        ("mine", REMEMBERED + 9),
        ("other", REMEMBERED + 9),
    ]
    assert events.recent(key("mine"), 0) == events.recent(key("nobody"), 5) == []
    events.emit(event(1, "mine", DELETED))
    assert events.recent(key("mine"), 5) == []


async def test_a_watch_may_begin_with_past_events_and_misses_none():
    events = Events()
    for number in (1, 2, 3):
        events.emit(event(number))

    watch = events.watch(key("m"), recent=2)
    first = await anext(watch)
    events.emit(event(4))

    assert [first.version, (await anext(watch)).version, (await anext(watch)).version] == [2, 3, 4]


async def test_a_watch_of_all_models_covers_one_tenant():
    events = Events()
    theirs = Event(ModelKey("other", "m"), CREATED, offset=0, version=1, reason="created", time=0.0)
    watch = events.watch(key(""), recent=5)

    events.emit(theirs)
    events.emit(event(1))
    first = await begun(watch)
    events.emit(theirs)
    events.emit(event(2))

    assert (await first, await anext(watch)) == (event(1), event(2))
    assert events.recent(ModelKey("other", ""), 5) == events.recent(ModelKey("other", "m"), 5) == [theirs, theirs]
