"""The forecasts of one source of ticks, iterated over in order, or taken as a frame."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable
from typing import Any, Self

from freshet import forks, shown
from freshet.engine import Engine
from freshet.errors import FreshetError, TickRefused
from freshet.forecast import Forecast
from freshet.framed import Rows, columns_of, no_frame
from freshet.ledger import Slot
from freshet.patience import Reported
from freshet.results import ModelSpec
from freshet.ticks import Tick


def waiting_for_labels(engine: Engine, seq: int, why: str) -> str:
    """What is said of labels that are waited for; nothing where they are judged, and where the server is away."""
    outbox, latest = engine.outbox, engine.ledger.latest
    if outbox.judged >= seq or latest is None:
        return ""
    away = "" if outbox.connected else "; the connection is down"
    return (
        f"stream {latest.stream_id!r}: {why} until labels up to tick {seq} are judged; they are up to "
        f"{outbox.judged}{away}. Does the model learn, or is its learning paused, or behind? `freshet top` shows it"
    )


class Forecasts:
    """Iterates over the forecasts of one source of ticks, in order. Made by `Stream.forecasts`.

    Ticks are pulled from the source ahead of the forecasts, at most `in_flight` of them; leaving the loop early leaves
    those sent. `aclose` stops the pulling; closing the stream does so too. An error of the source is raised after the
    forecasts of the ticks before it.
    """

    def __init__(
        self,
        engine: Engine,
        rows: Rows,
        in_flight: int,
        max_staleness: int | None,
        skip: bool,
    ) -> None:
        self.refused: list[TickRefused] = []  # with on_refused="skip"
        self._engine, self._source, self._in_flight = engine, rows.ticks, in_flight
        self._frame, self._delivered = rows.frame, 0
        self._max_staleness, self._skip = max_staleness, skip
        self._slots: deque[Slot] = deque()
        self._room = asyncio.Event()
        self._feeder: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "not started" if self._feeder is None else "source ended" if self._feeder.done() else "sending"
        waiting, refused = f"{len(self._slots)} to come", f"{len(self.refused)} refused"
        name = f"Forecasts of stream {self._engine.hello.stream!r}"
        return shown.handle(name, state, f"{self._delivered} delivered", waiting, refused)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Forecast:
        while True:
            slot = await self._oldest()
            try:
                forecast = await self._result(slot)  # cancelled here, the slot stays the oldest
            except TickRefused as error:
                self._drop_oldest()
                if not self._skip or error is self._engine.error:
                    raise
                self.refused.append(error)
            else:
                self._drop_oldest()
                return forecast

    async def several(self) -> list[Forecast]:
        """The next forecast, and those behind it that have come already; an empty list after the last.

        For who would rather wait once than once for each. Raises as iterating does.
        """
        try:
            forecasts = [await anext(self)]
        except StopAsyncIteration:
            return []
        while self._slots and isinstance(outcome := self._slots[0].outcome, Forecast):
            forecasts.append(outcome)
            self._drop_oldest()
        return forecasts

    async def frame(self) -> Any:
        """All forecasts as a frame of the library that the rows came in: pandas, polars, pyarrow, a dict of columns.

        A row per row, with its index (pandas) or its times as first column; NaN for one that was skipped. A column has
        the name of its target, or class; above horizon 1 it is NAME+H for H steps ahead. Waits for all: call it before
        iterating. Raises as iterating does; InvalidArgument where the rows came in no frame.
        """
        if self._frame is None:
            raise no_frame()
        if self._delivered:
            raise FreshetError("some forecasts were taken already: call frame() before iterating")
        outcomes: list[Forecast | None] = []
        async for forecast in self:
            outcomes += [None] * (self._delivered - 1 - len(outcomes))  # skipped before it
            outcomes.append(forecast)
        outcomes += [None] * (self._delivered - len(outcomes))
        spec = self._engine.ledger.latest.spec if self._engine.ledger.latest else ModelSpec()
        return self._frame(columns_of(spec, outcomes))

    async def _result(self, slot: Slot) -> Forecast:
        if self._max_staleness is None or slot.outcome is not None:
            return await slot.result()
        with Reported(self._why_held, lambda: self._engine.outbox.judged):
            return await slot.result()

    def _why_held(self) -> str:
        """What the oldest tick without an answer waits for."""
        assert self._max_staleness is not None
        seq = self._engine.outbox.answered + 1
        why = f"max_staleness = {self._max_staleness} holds tick {seq} back"
        return waiting_for_labels(self._engine, seq - self._max_staleness, why)

    def _drop_oldest(self) -> None:
        self._slots.popleft()
        self._delivered += 1
        self._room.set()

    async def aclose(self) -> None:
        """Pull no more ticks. What was sent stays sent."""
        self._source = iter(())
        if self._feeder is not None:
            self._feeder.cancel()
            await asyncio.gather(self._feeder, return_exceptions=True)

    async def _oldest(self) -> Slot:
        """The first slot without a taken outcome; raises the source's error, or StopAsyncIteration, after the last."""
        forks.check()
        if self._feeder is None:
            self._feeder = self._engine.spawn(self._feed())
        feeder = self._feeder
        if not self._slots:
            await self._engine.until(lambda: bool(self._slots) or feeder.done())
        if self._slots:
            return self._slots[0]
        if not feeder.cancelled():
            feeder.result()
        raise StopAsyncIteration

    async def _feed(self) -> None:
        """Move ticks from the source to the engine as long as there is room."""
        if isinstance(self._source, AsyncIterable):
            async for tick in self._source:
                await self._push(tick)
        else:
            for tick in self._source:
                await self._push(tick)

    async def _push(self, tick: Tick) -> None:
        while len(self._slots) >= self._in_flight:
            self._room.clear()
            await self._room.wait()
        try:
            slot = self._engine.accept(tick, self._max_staleness)
        except TickRefused as error:
            if error is self._engine.error:
                raise
            slot = Slot.refused(error)
        self._slots.append(slot)
        if len(self._slots) == 1:
            self._engine.notify()
