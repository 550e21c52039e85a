"""One stream: ticks in, forecasts out, in order."""

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
from freshet.forecasts import Forecasts, all_of, waiting_for_labels
from freshet.framed import Rows, framer
from freshet.patience import Reported
from freshet.results import ModelSpec, Welcome
from freshet.ticks import Tick, event_seconds, ticks


class Stream:
    """One entity's ticks and forecasts. Made by `Client.stream`; open it with `async with`. For use in one event loop.

    It reconnects by itself. It sends unanswered ticks again, and also answered ticks that a crashed server had not yet
    written to disk. Each tick has exactly one outcome.
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
        """Connect and wait for the server's Welcome. `async with` calls it.

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
            error.add_note(f"freshet: {late}")  # the error of the block is raised

    async def aclose(self) -> None:
        """Close the stream: wait, at most `close_s`, until all sent ticks are answered and on disk; drop unsent ones.

        Safe in any state and safe to repeat. Raises Unavailable if the server did not confirm the disk in time.
        """
        await self._engine.close()

    # --- ticks and forecasts

    async def step(self, x: Any, time: Any = None, *, known: Any = None) -> Forecast:
        """Send one tick and return its forecast.

        x: one number per channel (array-like; a bare number for one channel; a dict by channel name).
        time: seconds since 1970-01-01 UTC, datetime or datetime64; required if the model has an interval.
        known: the model's known inputs for the steps that are forecast: a mapping from each name to horizon numbers (a
            number for horizon 1), or an array [horizon, known]. The model learns from what is sent here.

        Raises TickRefused; the state is then unchanged and the stream stays usable. Raises the error that ended the
        stream. Cancelling does not withdraw the tick.
        """
        return await self._engine.accept(Tick(x, time, known)).result()

    async def steps(self, values: Any, times: Any = None, *, known: Any = None) -> list[Forecast]:
        """Send several ticks together and return their forecasts, in order.

        They go into one message, or a few: at most half of `in_flight` each, and `Welcome.max_ticks`. That costs both
        sides far less than a message each. `forecasts` does so too, where several ticks wait to be sent.

        values, times, known: as for `forecasts`; not an async iterable. Raises as `step` does: TickRefused, the first,
        once every tick has its outcome; the others are taken.
        """
        found = ticks(values, times, lambda: self.spec.channels, self.check_ahead, self.inputs, known)
        return await all_of(self._engine, found)

    def forecasts(
        self,
        values: Any,
        times: Any = None,
        *,
        known: Any = None,
        max_staleness: int | None = None,
        on_refused: Literal["raise", "skip"] = "raise",
    ) -> Forecasts:
        """Send many ticks, several in flight, and iterate over their forecasts in order.

        values: array (N, C), or (N,) for one channel; frame (pandas, polars, pyarrow …, or a dict of columns), whose
            columns are matched to the channels by name; list, generator or async iterable of rows, of (time, row)
            pairs, or of Ticks. Nulls become NaN.
        times: one per row, if values has rows only; for a frame also the name of its column of times. None: the index
            of a frame or series, if it is of times (pandas).
        known: the known inputs' values at each row: a frame or mapping of columns, or an array (N, known); for a frame
            of values its own columns of these names. Row t sends those of the next horizon rows, the last one held.
        max_staleness: K >= 1; tick s is sent only after labels up to s - K are judged, so that no forecast is older.
            While a tick waits and no label is judged for some seconds, the log `freshet` warns of it.
        on_refused: "raise" raises TickRefused in place of the forecast; iterating the same object then continues after
            it. "skip" leaves the tick out and keeps the error in `Forecasts.refused`.
        """
        if on_refused not in ("raise", "skip"):
            raise InvalidArgument(f"on_refused = {on_refused!r}; give 'raise' or 'skip'", "on_refused", on_refused)
        if max_staleness is not None:
            max_staleness = whole(max_staleness, "max_staleness", 1)
            if not self.spec.learn:
                raise invalid("max_staleness", max_staleness, "omit it: this model does not learn")
        rows = values
        if not isinstance(rows, Rows):
            found = ticks(values, times, lambda: self.spec.channels, self.check_ahead, self.inputs, known)
            rows = Rows(found, framer(values, times))
        return Forecasts(self._engine, rows, self._in_flight, max_staleness, on_refused == "skip")

    def inputs(self) -> tuple[tuple[str, ...], int]:
        """Return the names of the model's known inputs, and its horizon."""
        return self.spec.known, self.spec.horizon or 1

    def check_ahead(self, rows: npt.NDArray[Any]) -> None:
        """Check rows in advance, as `forecasts` does with arrays and frames before it sends any.

        rows: array (N, C), or (N,) for one channel. Raises InvalidArgument if float32 would lose their changes.
        """
        self._engine.ledger.check_ahead(rows)

    async def label(self, seq: int, y: Any) -> None:
        """Send the true value for the answered tick `seq`, and wait until it is on the server's disk.

        y: for task regress a number, or one per target in order; for task classify the class, by name or index, or the
            probability of each class.

        The first label of a tick wins. Several may be in flight at once: gather them. Raises LabelRefused, e.g. for a
        tick too long ago; InvalidArgument if float32 would lose changes from label to label; the error that ended the
        stream. Cancelling does not withdraw the label.
        """
        await self._engine.label(whole(seq, "seq"), y)

    async def reset(self) -> None:
        """Reset the state between the ticks so far and the next one. Returns once the reset is sent.

        It is sent after every earlier tick is answered, and again after a reconnect if its arrival was in doubt.
        """
        outbox = self._engine.outbox
        self._engine.reset()
        await self._engine.until(
            lambda: not outbox.reset_waiting, ("the answers to the ticks before a reset", lambda: outbox.answered)
        )

    async def durable(self, seq: int | None = None) -> None:
        """Wait until ticks up to `seq` (default: all so far) are on the server's disk.

        Raises Unavailable after `give_up_s` without progress.
        """
        outbox = self._engine.outbox
        target = outbox.next_seq - 1 if seq is None else whole(seq, "seq")
        self._engine.expect(durable=target)
        await self._engine.until(
            lambda: outbox.durable >= target,
            (f"tick {target} to reach the server's disk", self._owed(target, lambda: outbox.durable)),
        )

    async def wait_judged(self, seq: int) -> None:
        """Wait until the labels carried by ticks up to `seq` are judged in the serving weights.

        While none is judged for some seconds, a warning in the log `freshet` reports the progress. Raises Unavailable
        after `give_up_s` without progress.
        """
        seq = whole(seq, "seq")
        if not self.spec.learn:
            raise InvalidArgument("this model does not learn", "learn", "false", "create one with learn=True")
        outbox = self._engine.outbox
        coming = f"labels up to {seq} to be judged", self._owed(seq, lambda: outbox.judged)
        self._engine.expect(judged=seq)
        with Reported(
            lambda: waiting_for_labels(self._engine, seq, f"wait_judged({seq}) waits"), lambda: outbox.judged
        ):
            await self._engine.until(lambda: outbox.judged >= seq, coming)

    def _owed(self, seq: int, progress: Callable[[], int]) -> Callable[[], object]:
        """The progress, once tick `seq` exists. Before that the server owes nothing, and the wait has no limit."""
        outbox = self._engine.outbox
        return lambda: object() if seq >= outbox.next_seq else progress()

    # --- the current state

    @property
    def welcome(self) -> Welcome:
        """The latest Welcome. Raises NotOpen before the stream is open."""
        if self._engine.ledger.latest is None:
            raise NotOpen("stream", "client.stream(…) as stream")
        return self._engine.ledger.latest

    @property
    def spec(self) -> ModelSpec:
        """The model's spec, every field filled in."""
        return self.welcome.spec

    @property
    def next_seq(self) -> int:
        """The number of the next tick."""
        return self._engine.outbox.next_seq

    @property
    def last_time(self) -> float | None:
        """Event time of the last tick answered here, or the server's at opening; seconds since 1970-01-01 UTC.

        None for a fresh stream, after a reset, and for ticks without a time.
        """
        return self._engine.ledger.last_time

    def is_new(self, time: Any) -> bool:
        """Whether a row with this event time comes after `last_time`: a source that starts over sends only such rows.

        time: seconds since 1970-01-01 UTC, datetime or datetime64. Counting rows by `next_seq` does not work: refused
        and skipped rows have no number. Raises InvalidArgument for a value that is not a time.
        """
        last, at = self.last_time, event_seconds(time)
        return last is None or at > last

    @property
    def durable_seq(self) -> int:
        """The server has reported that ticks up to this one are on its disk: with a later forecast, or when `durable`
        waits for it, or some seconds after the last tick."""
        return self._engine.outbox.durable

    @property
    def judged_through(self) -> int:
        """The server has reported that labels of ticks up to this one are judged in the serving weights."""
        return self._engine.outbox.judged

    @property
    def address(self) -> str:
        """The address of the node that serves the stream; empty before the stream is open."""
        return self._engine.address

    @property
    def reconnects(self) -> int:
        """How often the stream was resumed on a new call."""
        return max(0, self._engine.calls - 1)
