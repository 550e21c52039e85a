"""Questions to a trainer process, and the calls that wait for the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from service.common.errors import Unavailable
from service.journal.writer import Journal
from service.learning.feed import Feed, Pipe
from service.trainer.messages import Question
from service.trainer.reports import Answer

A = TypeVar("A", bound=Answer)


class Questions:
    """The open questions to one trainer. For the event loop alone."""

    def __init__(self, journal: Journal, feed: Feed, pipe: Pipe) -> None:
        self._journal, self._feed, self._pipe = journal, feed, pipe
        self._open: dict[int, asyncio.Future[Answer]] = {}  # by number
        self._last = 0  # number given

    async def ask(
        self,
        make: Callable[[int], Question],
        answer: type[A],
        timeout_s: float,
        model: int | None = None,
        at_once: bool = False,
    ) -> A:
        """Ask once everything that is durable now of the model (None: of all the trainer's models) has been sent.

        make: the question with this number. at_once: do not wait for what is durable. Returns the answer, which is of
        the type `answer`. Raises Unavailable if none arrives in time, or the process ends.
        """
        self._last += 1
        number, position = self._last, 0 if at_once else self._journal.durable_position
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._open[number] = future
        try:
            async with asyncio.timeout(timeout_s):
                while self._sent_to(model) < position and not future.done():
                    self._feed.hurry()
                    self._feed.sent.clear()
                    await self._feed.sent.wait()
                self._pipe.write(make(number))
                found = await future
        except TimeoutError:
            why = f"no answer in {timeout_s:g} s"
            raise Unavailable("trainer", why, "it has much to learn, or hangs: ask again", retry_s=5.0) from None
        finally:
            del self._open[number]
        assert isinstance(found, answer)
        return found

    def answer(self, message: Answer) -> None:
        """Pass an answer to the call that waits for it; ignore it if that call has ended."""
        future = self._open.get(message.ask)
        if future is not None and not future.done():
            future.set_result(message)

    def fail(self) -> None:
        """End all open questions with Unavailable: the process has ended."""
        for future in self._open.values():
            if not future.done():
                why = "it is being started again: ask in a moment"
                future.set_exception(Unavailable("trainer", "ended", why, retry_s=1.0))
        self._feed.sent.set()

    def _sent_to(self, model: int | None) -> int:
        """The position up to which all chunks of the model, or of all models, were sent."""
        return self._feed.queues.resume if model is None else self._feed.queues.sent_to(model)
