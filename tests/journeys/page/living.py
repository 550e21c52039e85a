"""A model that streams feed for as long as a test looks at it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from types import TracebackType
from typing import Self

import numpy as np

import freshet
from freshet import EventKind

HORIZON = 3
EVERY_S = 0.01  # between two ticks of the stream
DEADLINE_S = 240.0  # beside other tests, the browser and the trainer have little of two cores


class Living:
    """A model named `name`, whose stream `river` gets a tick every EVERY_S inside the block: a sine, easily learned."""

    def __init__(self, client: freshet.Client, name: str, stream: str = "river") -> None:
        self.client, self.name, self.stream = client, name, stream
        self._moving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.client.create_model(
            self.name, channels=["level"], horizon=HORIZON, hidden=16, window=16, intervals=[0.8]
        )
        self._moving = asyncio.create_task(self._move())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._moving
        if self._moving.done() and not self._moving.cancelled():
            self._moving.result()
        self._moving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._moving

    async def _move(self) -> None:
        rng = np.random.default_rng(0)
        async with self.client.stream(self.name, self.stream, give_up_s=DEADLINE_S) as stream:
            for n in itertools.count():
                await stream.step([np.sin(n / 6) + 0.02 * rng.standard_normal()])
                await asyncio.sleep(EVERY_S)

    async def hurried(self, ticks: int, walking: bool = False) -> None:
        """Send ticks of the stream `torrent`, as fast as they are answered, and wait until they are learned.

        walking: a random walk is added, so that the error rises for good.
        """
        rng = np.random.default_rng(1)
        values = np.sin(np.arange(ticks) / 6) + 0.02 * rng.standard_normal(ticks)
        if walking:
            values += np.cumsum(rng.standard_normal(ticks))
        async with self.client.stream(self.name, "torrent", give_up_s=DEADLINE_S) as stream:
            async for _ in stream.forecasts(values):
                pass
            await asyncio.wait_for(stream.wait_judged(stream.next_seq - 1 - HORIZON), DEADLINE_S)

    async def until(self, kind: EventKind, count: int = 1) -> None:
        """Wait until the model has had `count` events of this kind."""
        async with asyncio.timeout(DEADLINE_S):
            while sum(event.kind == kind for event in await self.client.history(self.name)) < count:
                await asyncio.sleep(EVERY_S)
