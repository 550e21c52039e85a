"""A batch is what was submitted in one turn of the loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.serving.batcher import Batcher


class Recorder:
    """A step that doubles its items and records its batches. "boom" fails the batch, "odd" only its own item."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []

    def __call__(self, items: list[Any]) -> list[Any]:
        self.batches.append(items)
        if "boom" in items:
            raise ValueError("boom")
        return [KeyError("odd") if item == "odd" else item * 2 for item in items]


async def test_what_is_submitted_in_one_turn_is_one_batch_in_order():
    step = Recorder()
    batcher = Batcher(step)

    answers = await asyncio.gather(*[batcher.submit(n) for n in range(5)])

    assert step.batches == [[0, 1, 2, 3, 4]]
    assert answers == [0, 2, 4, 6, 8]


async def test_what_comes_in_a_later_turn_is_another_batch():
    step = Recorder()
    batcher = Batcher(step)

    await batcher.submit(1)
    await batcher.submit(2)

    assert step.batches == [[1], [2]]


async def test_no_batch_is_larger_than_the_bound_and_none_is_left_behind():
    step = Recorder()
    batcher = Batcher(step, max_batch=4)

    answers = await asyncio.gather(*[batcher.submit(n) for n in range(10)])

    assert step.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert answers == [2 * n for n in range(10)]


async def test_what_is_submitted_by_an_answers_callback_is_stepped_too():
    step = Recorder()
    batcher = Batcher(step)
    again: list[asyncio.Future[object]] = []

    batcher.submit(1).add_done_callback(lambda done: again.append(batcher.submit(done.result())))
    await batcher.submit(5)
    while not again:
        await asyncio.sleep(0)

    assert await again[0] == 4
    assert step.batches == [[1, 5], [2]]


async def test_an_outcome_that_is_an_error_goes_to_its_caller_alone():
    batcher = Batcher(Recorder())

    one, odd, two = await asyncio.gather(*map(batcher.submit, (1, "odd", 2)), return_exceptions=True)

    assert (one, two) == (2, 4)
    assert isinstance(odd, KeyError)


async def test_a_batch_that_fails_fails_its_callers_and_the_next_one_goes_on():
    batcher = Batcher(Recorder())

    first = await asyncio.gather(*map(batcher.submit, (1, "boom")), return_exceptions=True)

    assert [type(e) for e in first] == [ValueError, ValueError]
    assert await batcher.submit(3) == 6


async def test_a_step_that_forgets_an_item_fails_the_batch_instead_of_leaving_callers_waiting():
    batcher: Batcher[int, int] = Batcher(lambda items: items[1:])

    outcomes = await asyncio.gather(*map(batcher.submit, (1, 2)), return_exceptions=True)

    assert [type(e) for e in outcomes] == [RuntimeError, RuntimeError]


async def test_a_caller_that_has_left_does_not_disturb_the_others():
    step = Recorder()
    batcher = Batcher(step)
    gone, there = batcher.submit(1), batcher.submit(2)

    gone.cancel()

    assert await there == 4
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert step.batches == [[1, 2]]  # submitted items are stepped nevertheless
