"""The forecasts of one source of ticks: iterated over in order, or returned as a frame."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterator
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
    """Describe a wait for labels. Returns "" if they are judged, or if the stream was never welcomed."""
    outbox, latest = engine.outbox, engine.ledger.latest
    if outbox.judged >= seq or latest is None:
        return ""
    away = "" if outbox.connected else "; the connection is down"
    return (
        f"stream {latest.stream_id!r}: {why} until labels up to tick {seq} are judged; so far up to "
        f"{outbox.judged}{away}. Learning may be off, paused or late: `freshet top` shows it"
    )


async def all_of(engine: Engine, ticks: Iterator[Tick] | AsyncIterator[Tick]) -> list[Forecast]:
    """Send ticks at once and return their forecasts. Raises the first TickRefused once all have their outcomes;
    TypeError for an async iterator; the error that ended the stream."""
    if isinstance(ticks, AsyncIterator):
        raise TypeError("values = an async iterable; give it to forecasts, or collect its rows first")
    slots = [engine.accept_or_refuse(tick) for tick in ticks]
    made: list[Forecast] = []
    refused: TickRefused | None = None
    for slot in slots:
        try:
            made.append(await slot.result())
        except TickRefused as error:
            if error is engine.error:
                raise
            refused = refused or error
    if refused is not None:
        raise refused
    return made


class Forecasts:
    """Iterator over the forecasts of one source of ticks, in order. Made by `Stream.forecasts`.

    It pulls at most `in_flight` ticks ahead of the forecasts. If you leave the loop early, ticks already sent stay
    sent. `aclose` stops the pulling, as does closing the stream. An error of the source is raised after the forecasts
    of the ticks before it.
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
                forecast = await self._result(slot)  # if cancelled, the slot stays the oldest
            except TickRefused as error:
                self._drop_oldest()
                if not self._skip or error is self._engine.error:
                    raise
                self.refused.append(error)
            else:
                self._drop_oldest()
                return forecast

    async def several(self) -> list[Forecast]:
        """Return the next forecast and those after it that have arrived; an empty list after the last.

        It waits once for several forecasts, instead of once for each. Raises as iterating does.
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
        """Return all forecasts as a frame of the source's library: pandas, polars, pyarrow, a dict of columns.

        There is one row per source row, with the source's index (pandas) or its times as the first column; NaN for a
        skipped row. A column has the name of its target or class; above horizon 1 it is NAME+H for H steps ahead. It
        waits for all forecasts: call it before iterating. Raises as iterating does; InvalidArgument if the source was
        not a frame.
        """
        if self._frame is None:
            raise no_frame()
        if self._delivered:
            raise FreshetError("some forecasts were already delivered: call frame() before iterating")
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
        """Describe what holds back the oldest unanswered tick."""
        assert self._max_staleness is not None
        seq = self._engine.outbox.answered + 1
        why = f"max_staleness = {self._max_staleness} holds tick {seq} back"
        return waiting_for_labels(self._engine, seq - self._max_staleness, why)

    def _drop_oldest(self) -> None:
        self._slots.popleft()
        self._delivered += 1
        self._room.set()

    async def aclose(self) -> None:
        """Stop pulling ticks. Ticks already sent stay sent."""
        self._source = iter(())
        if self._feeder is not None:
            self._feeder.cancel()
            await asyncio.gather(self._feeder, return_exceptions=True)

    async def _oldest(self) -> Slot:
        """Return the oldest slot not yet delivered. After the last, raises the source's error or StopAsyncIteration."""
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
        """Move ticks from the source to the engine while there is room."""
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
        slot = self._engine.accept_or_refuse(tick, self._max_staleness)
        self._slots.append(slot)
        if len(self._slots) == 1:
            self._engine.notify()
