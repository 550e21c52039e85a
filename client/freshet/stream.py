"""A stream as an application sees it: ticks in, forecasts out, in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable
from types import TracebackType
from typing import Any, Literal, Self

from freshet.arguments import invalid, whole
from freshet.engine import Engine
from freshet.errors import FreshetError, InvalidArgument, NotOpen, TickRefused
from freshet.forecast import Forecast
from freshet.framed import Rows, columns_of, framer, no_frame
from freshet.ledger import Slot
from freshet.patience import Reported
from freshet.results import ModelSpec, Welcome
from freshet.ticks import Tick, event_seconds, ticks


class Stream:
    """One entity's ticks and forecasts. Made by `Client.stream`; open it with `async with`.

    It reconnects by itself: ticks without an answer are sent again, and so are answered ones that the server had not
    yet written to disk when it died. Each tick gives exactly one outcome. For use in one event loop.
    """

    def __init__(self, engine: Engine, in_flight: int) -> None:
        self._engine, self._in_flight = engine, in_flight

    async def open(self) -> Self:
        """Connect; returns once the server has said Welcome. `async with` does it at its start.

        Raises NotFound, InvalidArgument, PermissionDenied …; StateLost; Unavailable after `give_up_s`.
        """
        await self._engine.open()
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._engine.close()
        except FreshetError as late:
            if error is None:
                raise
            error.add_note(f"freshet: {late}")  # the first error is the one to see

    async def aclose(self) -> None:
        """End the stream: wait, at most `close_s`, until what was sent is answered and on disk; drop what was not sent.

        Safe in any state and any number of times. Raises Unavailable if the disk was not confirmed in time.
        """
        await self._engine.close()

    # --- ticks and forecasts

    async def step(self, x: Any, time: Any = None) -> Forecast:
        """Send one tick and wait for its forecast.

        x: one number per channel (array-like; a bare number for one channel; a dict by name). time: seconds since
        1970-01-01 UTC, datetime or datetime64; required when the model has an interval. Raises TickRefused, after which
        the next tick is taken as if this one had not been; and whatever ended the stream. Cancelling does not take the
        tick back.
        """
        slot = self._engine.accept(Tick(x, time))
        await self._engine.pump()
        return await slot.result()

    def forecasts(
        self,
        values: Any,
        times: Any = None,
        *,
        max_staleness: int | None = None,
        on_refused: Literal["raise", "skip"] = "raise",
    ) -> Forecasts:
        """Send many ticks, several in flight, and iterate over their forecasts in order.

        values: array (N, C), or (N,) for one channel; frame (pandas, polars, pyarrow …, or a dict of columns), its
            columns matched to the channels by name; list, generator or async iterable of rows, of (time, row) pairs, or
            of Ticks. Nulls are NaN.
        times: one per row, where values has rows only; of a frame also the name of the column that has them. None: the
            index of a frame, or a series, whose index is of times (pandas).
        max_staleness: K >= 1; tick s is sent only once labels up to s - K are judged, so that no forecast is older.
            Where one waits and none is judged for some seconds, a warning in the log `freshet` says for what.
        on_refused: what a refused tick does. "raise": TickRefused is raised in its place, and iterating the same
            object again goes on behind it. "skip": it is left out, and kept in `Forecasts.refused`.
        """
        if on_refused not in ("raise", "skip"):
            raise InvalidArgument(f"on_refused = {on_refused!r}; give 'raise' or 'skip'", "on_refused", on_refused)
        if max_staleness is not None:
            max_staleness = whole(max_staleness, "max_staleness", 1)
            if not self.spec.learn:
                raise invalid("max_staleness", max_staleness, "leave it out: this model does not learn")
        rows = values
        if not isinstance(rows, Rows):
            rows = Rows(ticks(values, times, lambda: self.spec.channels), framer(values, times))
        return Forecasts(self._engine, rows, self._in_flight, max_staleness, on_refused == "skip")

    async def label(self, seq: int, y: Any) -> None:
        """Tell the true value for tick `seq`, which was answered; returns once that is on the server's disk.

        y: for task regress a number, or one per target in order; for task classify the class, by name or index, or the
        probability of each. Of a tick's labels the first one wins. Several may be on their way at once: gather them.
        Raises LabelRefused, e.g. for a tick that is too long ago; and whatever ended the stream. Cancelling does not
        take the label back.
        """
        await self._engine.label(whole(seq, "seq"), y)

    async def reset(self) -> None:
        """Begin the state anew between the ticks so far and the next. Returns once the server has been told.

        It is told when every tick before has been answered, and again after a reconnect if that was in doubt.
        """
        self._engine.check()
        self._engine.ledger.reset()
        await self._engine.pump()
        await self._engine.until(lambda: not self._engine.outbox.reset_waiting)

    async def durable(self, seq: int | None = None) -> None:
        """Wait until ticks up to `seq` (default: all so far) are on the server's disk."""
        outbox = self._engine.outbox
        target = outbox.next_seq - 1 if seq is None else whole(seq, "seq")
        await self._engine.until(lambda: outbox.durable >= target)

    async def wait_judged(self, seq: int) -> None:
        """Wait until the labels that ticks up to `seq` carried are judged in the weights that serve.

        Where none is judged for some seconds, a warning in the log `freshet` says how far they are.
        """
        seq = whole(seq, "seq")
        if not self.spec.learn:
            raise InvalidArgument("this model does not learn", "learn", "false", "create one with learn=True")
        outbox = self._engine.outbox
        with Reported(lambda: _unjudged(self._engine, seq, f"wait_judged({seq}) waits"), lambda: outbox.judged):
            await self._engine.until(lambda: outbox.judged >= seq)

    # --- what is known

    @property
    def welcome(self) -> Welcome:
        """The latest Welcome. Raises FreshetError before the stream is open."""
        if self._engine.ledger.latest is None:
            raise NotOpen("stream", "client.stream(…) as stream")
        return self._engine.ledger.latest

    @property
    def spec(self) -> ModelSpec:
        """The model's spec, every field filled in."""
        return self.welcome.spec

    @property
    def next_seq(self) -> int:
        """The number that the next tick gets."""
        return self._engine.outbox.next_seq

    @property
    def last_time(self) -> float | None:
        """Event time of the last tick that was answered here, or of the stream as it was found; seconds since
        1970-01-01 UTC. None for a fresh stream, after a reset, and where ticks have no time."""
        return self._engine.ledger.last_time

    def is_new(self, time: Any) -> bool:
        """Whether a row with this event time comes after `last_time`: what a source that begins again is to send.

        time: seconds since 1970-01-01 UTC, datetime or datetime64. A count of rows, such as `next_seq`, does not know
        it: rows that were refused or left out have no number. Raises InvalidArgument for what is no time.
        """
        last, at = self.last_time, event_seconds(time)
        return last is None or at > last

    @property
    def durable_seq(self) -> int:
        """Ticks up to here are on the server's disk, as far as it has said."""
        return self._engine.outbox.durable

    @property
    def judged_through(self) -> int:
        """Labels of ticks up to here are judged in the weights that serve, as far as the server has said."""
        return self._engine.outbox.judged

    @property
    def reconnects(self) -> int:
        """Times that the stream was resumed on another call."""
        return max(0, self._engine.calls - 1)


def _unjudged(engine: Engine, seq: int, why: str) -> str:
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
        self._frame, self._taken = rows.frame, 0
        self._max_staleness, self._skip = max_staleness, skip
        self._slots: deque[Slot] = deque()
        self._room = asyncio.Event()
        self._feeder: asyncio.Task[None] | None = None

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
        if self._taken:
            raise FreshetError("some forecasts were taken already: call frame() before iterating")
        outcomes: list[Forecast | None] = []
        async for forecast in self:
            outcomes += [None] * (self._taken - 1 - len(outcomes))  # skipped before it
            outcomes.append(forecast)
        outcomes += [None] * (self._taken - len(outcomes))
        spec = self._engine.ledger.latest.spec if self._engine.ledger.latest else ModelSpec()
        return self._frame(columns_of(spec, outcomes))

    async def _result(self, slot: Slot) -> Forecast:
        if self._max_staleness is None or slot.outcome is not None:
            return await slot.result()
        with Reported(self._held, lambda: self._engine.outbox.judged):
            return await slot.result()

    def _held(self) -> str:
        """What the oldest tick without an answer waits for."""
        assert self._max_staleness is not None
        seq = self._engine.outbox.answered + 1
        why = f"max_staleness = {self._max_staleness} holds tick {seq} back"
        return _unjudged(self._engine, seq - self._max_staleness, why)

    def _drop_oldest(self) -> None:
        self._slots.popleft()
        self._taken += 1
        self._room.set()

    async def aclose(self) -> None:
        """Pull no more ticks. What was sent stays sent."""
        self._source = iter(())
        if self._feeder is not None:
            self._feeder.cancel()
            await asyncio.gather(self._feeder, return_exceptions=True)

    async def _oldest(self) -> Slot:
        """The first slot without a taken outcome; raises the source's error, or StopAsyncIteration, after the last."""
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
        await self._engine.pump()
