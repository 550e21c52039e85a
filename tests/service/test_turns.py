"""Which ticks are stepped at once and which share a step: the first after a moment without any goes alone."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from service.serving.live import LivePath
from service.serving.ticks import ALONE_S, Fenced, Tick
from service.streams.answers import Answer
from service.streams.served import ServedModel
from service.streams.session import Session
from tests.service.one_process import World, world


def next_tick(model: ServedModel, session: Session, x: float = 1.0) -> Tick:
    return Tick(model, session, session.epoch, session.last_seq + 1, np.nan, np.array([x], np.float32), 0.0)


@pytest.fixture
def steps(monkeypatch) -> list[list[str]]:
    """Record the streams of each model step, in order."""
    seen: list[list[str]] = []
    step = ServedModel.step

    def record(self: ServedModel, runner: Any, rows: Any, *rest: Any) -> Any:
        seen.append([self.table.ids[row] for row in np.atleast_1d(rows)])
        return step(self, runner, rows, *rest)

    monkeypatch.setattr(ServedModel, "step", record)
    return seen


async def together(serving: LivePath, model: ServedModel, *sessions: Session) -> list[Any]:
    """Send the next tick of each session in one turn of the loop."""
    ticks = (serving.ticks.answer(next_tick(model, session)) for session in sessions)
    return await asyncio.gather(*ticks, return_exceptions=True)


def stopped(service: World) -> list[float]:
    """Stop the clock of a server; returns its time, seconds, to be changed."""
    now = [service.clock()]
    service.clock = lambda: now[0]
    return now


async def test_a_stream_that_ticks_alone_is_stepped_before_the_loop_turns(tmp_path, steps):
    async with world(tmp_path) as service:
        model = await service.model()
        session = service.open(model, "a")
        for _ in range(3):
            answering = service.serving.ticks.answer(next_tick(model, session))
            with pytest.raises(StopIteration) as ended:  # a coroutine that never waited
                answering.send(None)
            assert isinstance(ended.value.value, Answer)

    assert steps == [["a"], ["a"], ["a"]]


async def test_of_many_streams_one_goes_ahead_and_the_others_share_a_step(tmp_path, steps):
    async with world(tmp_path) as service:
        model = await service.model()
        sessions = [service.open(model, id) for id in "abcd"]
        now = stopped(service)

        answers = await together(service.serving, model, *sessions)
        answers += await together(service.serving, model, *sessions[::-1])
        now[0] += 2 * ALONE_S
        answers += await together(service.serving, model, *sessions[::-1])

    assert all(isinstance(answer, Answer) for answer in answers)
    assert steps == [["a"], ["b", "c", "d"], ["d", "c", "b", "a"], ["d"], ["c", "b", "a"]]


async def test_after_a_moment_without_ticks_any_stream_is_stepped_before_the_loop_turns(tmp_path, steps):
    async with world(tmp_path) as service:
        model = await service.model()
        first, second = service.open(model, "a"), service.open(model, "b")
        now = stopped(service)
        for session in (first, second, first):
            now[0] += 2 * ALONE_S
            answering = service.serving.ticks.answer(next_tick(model, session))
            with pytest.raises(StopIteration):
                answering.send(None)

    assert steps == [["a"], ["b"], ["a"]]


async def test_both_ways_give_the_same_answers(tmp_path):
    async with world(tmp_path) as service:
        model = await service.model()
        alone, shared = service.open(model, "alone"), service.open(model, "shared")
        for x in (1.0, 3.0, 2.0, 5.0):
            at_once = await service.serving.ticks.answer(next_tick(model, alone, x))
            in_turn = await service.serving.ticks.answer(next_tick(model, shared, x))
            assert isinstance(at_once, Answer)
            assert isinstance(in_turn, Answer)
            assert at_once.y == in_turn.y


async def test_a_former_owner_alone_learns_that_it_is_fenced(tmp_path):
    async with world(tmp_path) as service:
        model = await service.model()
        session = service.open(model, "a")
        late = next_tick(model, session)
        service.open(model, "a")  # another call takes the stream over

        with pytest.raises(Fenced):
            await service.serving.ticks.answer(late)

        assert session.last_seq == 0
