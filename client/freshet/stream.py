"""A stream as an application sees it: ticks in, forecasts out, in order."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self

import numpy.typing as npt

from freshet import shown
from freshet.arguments import invalid, whole
from freshet.engine import Engine
from freshet.errors import FreshetError, InvalidArgument, NotOpen
from freshet.forecast import Forecast
from freshet.forecasts import Forecasts, waiting_for_labels
from freshet.framed import Rows, framer
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

    def __repr__(self) -> str:
        hello, outbox, facts = self._engine.hello, self._engine.outbox, []
        if self._engine.calls:
            facts = [f"next tick {outbox.next_seq}", f"answered to {outbox.answered}", f"on disk to {outbox.durable}",
                     f"judged to {outbox.judged}"]  # fmt: skip
            if self.reconnects:
                facts.append(shown.count(self.reconnects, "reconnect"))
        return shown.handle(f"Stream {hello.stream!r} of model {hello.model!r}", self._engine.state, *facts)

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
        return await self._engine.accept(Tick(x, time)).result()

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
            found = ticks(values, times, lambda: self.spec.channels, self.check_ahead)
            rows = Rows(found, framer(values, times))
        return Forecasts(self._engine, rows, self._in_flight, max_staleness, on_refused == "skip")

    def check_ahead(self, rows: npt.NDArray[Any]) -> None:
        """Raise InvalidArgument where float32 would lose what changes in rows that are all there, as `forecasts` does
        with arrays and frames before it sends any.

        rows: array (N, C), or (N,) for one channel.
        """
        self._engine.ledger.check_ahead(rows)

    async def label(self, seq: int, y: Any) -> None:
        """Tell the true value for tick `seq`, which was answered; returns once that is on the server's disk.

        y: for task regress a number, or one per target in order; for task classify the class, by name or index, or the
        probability of each. Of a tick's labels the first one wins. Several may be on their way at once: gather them.
        Raises LabelRefused, e.g. for a tick that is too long ago; InvalidArgument where float32 would lose what changes
        from label to label; and whatever ended the stream. Cancelling does not take the label back.
        """
        await self._engine.label(whole(seq, "seq"), y)

    async def reset(self) -> None:
        """Begin the state anew between the ticks so far and the next. Returns once the server has been told.

        It is told when every tick before has been answered, and again after a reconnect if that was in doubt.
        """
        outbox = self._engine.outbox
        self._engine.reset()
        await self._engine.until(
            lambda: not outbox.reset_waiting, ("the answers to the ticks before a reset", lambda: outbox.answered)
        )

    async def durable(self, seq: int | None = None) -> None:
        """Wait until ticks up to `seq` (default: all so far) are on the server's disk. Raises Unavailable once that has
        come no nearer for `give_up_s`."""
        outbox = self._engine.outbox
        target = outbox.next_seq - 1 if seq is None else whole(seq, "seq")
        await self._engine.until(
            lambda: outbox.durable >= target,
            (f"tick {target} to reach the server's disk", self._owed(target, lambda: outbox.durable)),
        )

    async def wait_judged(self, seq: int) -> None:
        """Wait until the labels that ticks up to `seq` carried are judged in the weights that serve.

        Where none is judged for some seconds, a warning in the log `freshet` says how far they are. Raises Unavailable
        once that has come no nearer for `give_up_s`.
        """
        seq = whole(seq, "seq")
        if not self.spec.learn:
            raise InvalidArgument("this model does not learn", "learn", "false", "create one with learn=True")
        outbox = self._engine.outbox
        coming = f"labels up to {seq} to be judged", self._owed(seq, lambda: outbox.judged)
        with Reported(
            lambda: waiting_for_labels(self._engine, seq, f"wait_judged({seq}) waits"), lambda: outbox.judged
        ):
            await self._engine.until(lambda: outbox.judged >= seq, coming)

    def _owed(self, seq: int, progress: Callable[[], int]) -> Callable[[], object]:
        """The progress, from when tick `seq` is given on: until then the server owes nothing, and any time may pass."""
        outbox = self._engine.outbox
        return lambda: object() if seq >= outbox.next_seq else progress()

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
