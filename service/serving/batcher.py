"""Batching without a timer: a batch is what arrived while the last one ran."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class Batcher(Generic[Item, Outcome]):
    """Collects the items submitted in one turn of the event loop and passes them to `step` together.

    `step` runs on the loop and is synchronous, so nothing awaits between a batch's first decision and its last answer.
    It returns one outcome per item: a result, an exception for that item's caller alone, or a future of either.
    """

    def __init__(
        self, step: Callable[[list[Item]], Sequence[Outcome | Exception | asyncio.Future[Outcome]]],
        max_batch: int = 1024,
    ) -> None:  # fmt: skip
        self._step, self._max_batch = step, max_batch
        self._items: list[Item] = []
        self._answers: list[asyncio.Future[Outcome]] = []
        self._scheduled = False

    def submit(self, item: Item) -> asyncio.Future[Outcome]:
        """Queue an item for the next batch; returns a future of its outcome."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome] = loop.create_future()
        self._items.append(item)
        self._answers.append(answer)
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._run)
        return answer

    def _run(self) -> None:
        n = self._max_batch
        items, self._items = self._items[:n], self._items[n:]
        answers, self._answers = self._answers[:n], self._answers[n:]
        self._scheduled = bool(self._items)
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._run)
        outcomes: Sequence[Outcome | Exception | asyncio.Future[Outcome]]
        try:
            outcomes = self._step(items)
            if len(outcomes) != len(items):
                raise RuntimeError(f"{len(outcomes)} outcomes for {len(items)} items")
        except Exception as error:  # one bad batch fails its callers, not the service
            outcomes = [error] * len(items)
        for answer, outcome in zip(answers, outcomes, strict=True):
            if isinstance(outcome, asyncio.Future):
                outcome.add_done_callback(partial(forward, answer))
            else:
                resolve(answer, outcome)


def resolve(answer: asyncio.Future[Outcome], outcome: Outcome | Exception) -> None:
    """Set a future's outcome, unless it is done: its caller may have left."""
    if answer.done():
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


def forward(answer: asyncio.Future[Outcome], source: asyncio.Future[Outcome]) -> None:
    """Set a future's outcome to that of `source`, which is done."""
    if source.cancelled():
        answer.cancel()
    elif error := source.exception():
        resolve(answer, error if isinstance(error, Exception) else RuntimeError(str(error)))
    else:
        resolve(answer, source.result())
