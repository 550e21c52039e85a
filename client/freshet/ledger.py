"""The ticks of one stream and their outcomes: messages in, outcomes out. No calls and no tasks; see engine.py."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from freshet import offsets
from freshet.bounds import Bounds
from freshet.errors import InvalidArgument, LabelRefused, NotOpen, Reason, StateLost, TickRefused
from freshet.forecast import Forecast
from freshet.labels import Answers, label_values
from freshet.offsets import F64
from freshet.precision import Line, check_ahead
from freshet.results import Welcome
from freshet.resume import Action, Entry, Outbox, ProtocolError, Reset
from freshet.ticks import Checked, Layout, Tick, check
from freshet.together import Answered, message
from freshet.v1 import streams_pb2 as pb
from freshet.v1 import types_pb2

MAX_UNDURABLE = 256  # if the server does not send a limit


@dataclass(slots=True, eq=False)
class Slot:
    """One tick of the user and its outcome, once there is one. sent_at: loop time, seconds; 0 before it is sent."""

    tick: Checked
    outcome: Forecast | Exception | None = None
    sent_at: float = 0.0
    waiter: asyncio.Future[None] | None = None

    @classmethod
    def refused(cls, error: TickRefused) -> Slot:
        """Return the slot of a tick that failed the check."""
        return cls(Checked([], None, []), error)

    def set_outcome(self, outcome: Forecast | Exception) -> None:
        """Set the outcome, once, and wake the waiter."""
        if self.outcome is None:
            self.outcome = outcome
            if self.waiter is not None and not self.waiter.done():
                self.waiter.set_result(None)

    async def result(self) -> Forecast:
        """Wait for the outcome; raises it if it is an error. May be cancelled and called again."""
        if self.outcome is None:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter
        assert self.outcome is not None
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Ledger:
    """An outbox of slots, and the meaning of the server's messages for them.

    offset: subtracted from the channels and added to the forecasts, in the form of `offsets.checked`.
    """

    def __init__(self, in_flight: int, accept_lost: bool, offset: Any = None) -> None:
        self.outbox: Outbox[Slot] = Outbox(in_flight)
        self.latest: Welcome | None = None
        self.last_time: float | None = None  # event time of the last answered tick, or the server's at opening
        self.put_off = ""  # the server's reason for delaying the oldest tick
        self._accept_lost, self._given_offset = accept_lost, offset
        self._watch = self._label_watch = Line(())
        self._added: F64 | None = None  # to forecasts
        self._layout: Layout | None = None
        self._answers = Answers("forecast", ())
        self._interval = 0.0  # seconds between steps; 0 for none
        self._forecast_shape = (1, 1)  # horizon, and targets or classes
        self._levels: tuple[float, ...] = ()  # of prediction intervals
        # Ticks with an event time since the last reset: the last answered one and all later ones.
        self._timed: deque[Slot] = deque()

    def accept(self, tick: Tick, max_staleness: int | None = None) -> Slot:
        """Check a tick and queue it. Raises TickRefused; InvalidArgument if float32 would lose its changes."""
        if self._layout is None:
            raise NotOpen("stream", "client.stream(…) as stream")
        last_time = self._timed[-1].tick.time if self._timed else None
        checked = check(tick, self.outbox.next_seq, self._layout, last_time)
        self._watch.see(checked.given, self._layout.offset)
        slot = Slot(checked)
        self.outbox.append(slot, max_staleness)
        if checked.time is not None:
            self._timed.append(slot)
            while len(self._timed) > 1 and self._timed[1].outcome is not None:
                self._timed.popleft()
        return slot

    def check_ahead(self, rows: npt.NDArray[Any]) -> None:
        """Raise InvalidArgument if float32 would lose changes between the given rows.

        rows: (N, C), or (N,) for one channel; other shapes are checked tick by tick.
        """
        if self._layout is None or rows.dtype.kind not in "fiu":
            return
        channels = self._layout.channels
        found = rows[:, None] if rows.ndim == 1 and len(channels) == 1 else rows
        if found.ndim == 2 and found.shape[1] == len(channels):
            check_ahead(found.astype(np.float64), channels, self._layout.offset or 0.0)

    def label_values(self, seq: int, y: Any) -> list[float]:
        """Check a label for an answered tick. Raises LabelRefused; InvalidArgument as `accept`."""
        values = label_values(self._answers, y, seq)
        if not 1 <= seq <= self.outbox.answered:
            remedy = f"label a tick once it is answered; the last one is {self.outbox.answered}"
            raise LabelRefused(seq, "label.seq", str(seq), remedy, Reason.UNKNOWN_TICK)
        self._label_watch.see(values)
        return values

    @property
    def max_undurable(self) -> int:
        """Limit of ticks, and of labels, that are not yet on disk."""
        return (self.latest.max_undurable if self.latest else 0) or MAX_UNDURABLE

    def reset(self) -> None:
        """Insert a Reset between the ticks so far and the next one, whose event time may be earlier."""
        self.outbox.reset()
        self._timed.clear()
        self._watch.forget()

    def request(self, item: Entry[Slot] | Reset, now: float) -> pb.OpenRequest:
        """Return the message for an item of the outbox."""
        if isinstance(item, Reset):
            self.last_time = None
            return pb.OpenRequest(reset=pb.Reset())
        slot = item.payload
        slot.sent_at = slot.sent_at or now
        return pb.OpenRequest(tick=pb.Tick(seq=item.seq, x=slot.tick.x, time=slot.tick.time, u=slot.tick.u))

    def together(self, entries: list[Entry[Slot]], now: float) -> pb.OpenRequest:
        """Return one message for several ticks that follow one another."""
        for entry in entries:
            entry.payload.sent_at = entry.payload.sent_at or now
        return pb.OpenRequest(ticks=message(entries[0].seq, [entry.payload.tick for entry in entries]))

    def welcome(self, welcome: pb.Welcome) -> None:
        """Start a call. Raises StateLost, TakenOver; InvalidArgument for an offset that does not match the channels."""
        if welcome.state_origin == pb.Welcome.LOST and not (self._accept_lost and self.latest is None):
            raise StateLost(
                f"the server has lost the state of {welcome.stream_id!r}; "
                "open it with accept_lost=True to start over from a fresh one"
            )
        self.outbox.welcome(welcome.next_seq, welcome.durable_seq, welcome.judged_through, welcome.max_undurable)
        if self.latest is None and welcome.HasField("last_time"):
            self.last_time = welcome.last_time
        self.latest = Welcome.of(welcome)
        spec = self.latest.spec
        if self._layout is None:
            self._watch = Line(spec.channels)
        offset = offsets.of_channels(self._given_offset, spec.channels)
        self._added = offsets.of_outputs(offset, spec)
        by = None if offset is None else tuple(offset.tolist())
        self._layout = Layout(spec.channels, spec.interval, spec.missing == "hold", by, spec.known, spec.horizon or 1)
        if self._answers != Answers.of(spec):
            self._label_watch = Line(Answers.of(spec).names, "label.y")
        self._answers = Answers.of(spec)
        self._interval = spec.interval if self._answers.task == "forecast" else 0.0
        self._forecast_shape = (spec.horizon or 1, len(self._answers.names))
        self._levels = spec.intervals

    def forecast(self, answer: pb.Forecast | Answered, now: float) -> None:
        """Record the answer to a tick. Raises ProtocolError for an unexpected answer, or one of the wrong size."""
        seq, judged = answer.seq, answer.judged_through
        slot = self.outbox.forecast(seq, judged)
        if answer.durable_seq:
            self.outbox.durable_through(answer.durable_seq, judged)
        if slot is None:
            return
        try:
            y = np.array(answer.y, np.float32).reshape(self._forecast_shape)
            bounds = self._bounds(answer.lower, answer.upper) if self._levels else None
        except ValueError:
            raise ProtocolError(
                f"forecast {seq} has {len(answer.y)} values, expected horizon × targets = {self._forecast_shape}, and "
                f"{len(answer.lower)} and {len(answer.upper)} bounds of {len(self._levels)} intervals"
            ) from None
        self.put_off = ""
        self._answered(slot)
        waited, time = now - slot.sent_at, slot.tick.time
        made = offsets.added(y, self._added)
        forecast = Forecast(
            seq, made, answer.version, judged, waited, time=time, interval=self._interval, bounds=bounds
        )
        slot.set_outcome(forecast)

    def refused(self, refused: types_pb2.Refused, now: float) -> Action:
        """Record a refusal. Raises TickRefused if it ends the stream, InvalidArgument if it does not concern a tick."""
        if refused.seq == 0:
            text = f"{refused.field} = {refused.value}; {refused.remedy}"
            raise InvalidArgument(text, refused.field, refused.value, refused.remedy)
        error = TickRefused(refused.seq, refused.field, refused.value, refused.remedy, Reason(refused.reason))
        action, slot = self.outbox.refused(refused.seq, error.reason)
        self.put_off = refused.remedy if action is Action.HOLD else ""
        if action is Action.FAIL:
            raise error
        if action is Action.DROP and slot is not None:
            if slot in self._timed:
                self._timed.remove(slot)
            slot.set_outcome(error)
        elif action is Action.LOST and slot is not None:
            self._answered(slot)
            y = offsets.added(np.full(self._forecast_shape, np.nan, np.float32), self._added)
            waited, time = now - slot.sent_at, slot.tick.time
            unknown = np.full(len(self._levels) * y.size, np.nan, np.float32)
            forecast = Forecast(
                refused.seq, y, 0, self.outbox.judged, waited, lost=True, time=time, interval=self._interval,
                bounds=self._bounds(unknown, unknown) if self._levels else None,
            )  # fmt: skip
            slot.set_outcome(forecast)
        return action

    def _bounds(self, lower: Any, upper: Any) -> Bounds:
        """Return the bounds of an answer from its flat values. Raises ValueError for another number of values."""
        shape = (len(self._levels), *self._forecast_shape)
        low, high = (offsets.added(np.array(flat, np.float32).reshape(shape), self._added) for flat in (lower, upper))
        return Bounds(self._levels, low, high)

    def _answered(self, slot: Slot) -> None:
        if slot.tick.time is not None:
            self.last_time = slot.tick.time

    def fail(self, error: Exception) -> None:
        """Set this error as the outcome of every unanswered tick."""
        for slot in self.outbox.unanswered():
            slot.set_outcome(error)
