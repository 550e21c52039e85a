"""Runs one stream: one task keeps a call open and reads it, another writes what is due.

The decisions are elsewhere (what to send: resume.py; the meaning of a message: ledger.py); here are calls, tasks and
waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import grpc

from freshet import forks, shown
from freshet.calls import Opener, cancelled_from_outside
from freshet.defaults import ANSWER_S, CLOSE_S, GIVE_UP_S, IN_FLIGHT
from freshet.errors import NotOpen, StreamClosed, TakenOver, TickRefused, Unavailable
from freshet.labels import Label, LabelBox, label_refused
from freshet.ledger import Ledger, Slot
from freshet.owed import Owed
from freshet.resume import Action, Entry, Reset
from freshet.retry import Backoff
from freshet.ticks import Tick
from freshet.together import Answered, outcomes
from freshet.v1 import streams_pb2 as pb
from freshet.v1 import types_pb2
from freshet.waits import Waits, Wanted

Call: TypeAlias = "grpc.aio.StreamStreamCall[pb.OpenRequest, pb.OpenResponse]"

MAX_IN_FLIGHT = 128  # a server keeps more answers than this, for ticks sent again
LEAVE_S = 1.0  # how long a server that asked us to reconnect may still answer
EVERY = 2**63  # a seq that no stream reaches: the server reports each progress
OVERLOAD_S = 0.1  # retry delay for an overloaded server that sends none; Durable ends it early


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one stream. Times in seconds."""

    # Ticks that may be unanswered at once, 1 to MAX_IN_FLIGHT.
    in_flight: int = IN_FLIGHT
    # The stream fails with Unavailable after this time without any success.
    give_up_s: float = GIVE_UP_S
    # A call that owes an answer (or its Welcome) for longer is cut and repeated.
    answer_s: float = ANSWER_S
    # Longest wait for the server's disk when closing.
    close_s: float = CLOSE_S
    # Continue although the server has lost the stream's state; only at opening, never later.
    accept_lost: bool = False
    # Subtracted from each channel before it becomes float32, in the form of `offsets.checked`.
    offset: dict[str, float] | list[float] | float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.in_flight <= MAX_IN_FLIGHT:
            raise ValueError(f"in_flight = {self.in_flight}; give 1 to {MAX_IN_FLIGHT}")
        if min(self.give_up_s, self.close_s) < 0 or self.answer_s <= 0:
            raise ValueError("give_up_s and close_s must not be negative, answer_s must be above 0")


class Expected(NamedTuple):
    """Seqs that someone waits for: on disk, and judged."""

    durable: int
    judged: int


NOTHING = Expected(0, 0)


@dataclass(slots=True, eq=False)
class Link:
    """One call. owed: whether it owes an answer for too long.

    spares: the server reports progress with its forecasts, and alone only up to what `expected` names. most: ticks
    that go into one message.
    """

    call: Call
    owed: Owed
    half_closed: bool = False
    spares: bool = False
    most: int = 1
    expected: Expected = NOTHING


class Engine:
    """The calls of one stream, one after the other, from `open` to `close`."""

    def __init__(
        self, open_call: Opener[Call], hello: pb.Hello, settings: Settings, rng: random.Random | None = None
    ) -> None:
        self._open_call, self.hello, self._settings = open_call, hello, settings
        self._backoff = Backoff(settings.give_up_s, rng or random.Random())
        self.ledger = Ledger(settings.in_flight, settings.accept_lost, settings.offset)
        self.outbox, self.labels = self.ledger.outbox, LabelBox()
        self.error: Exception | None = None  # why the stream ended
        self.calls = 0  # Welcomes so far
        self._expected = NOTHING  # on any call
        self._closing = False
        self._link: Link | None = None  # the call to write on; None: not connected, or the server is leaving
        self._wake = asyncio.Event()
        self._waits = Waits(settings.give_up_s, self.check)
        self._owed_since = 0.0  # loop time, seconds: the last progress of unanswered ticks
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: asyncio.Task[None] | None = None

    # --- for the stream

    async def open(self) -> None:
        """Connect and wait for the first Welcome. Raises FreshetError; no task is left running then."""
        forks.check()
        if self._closing or self._runner is not None:
            raise StreamClosed("this stream was opened before; make another with client.stream(…)")
        self._loop = asyncio.get_running_loop()
        self._runner = self.spawn(self._run())
        self.spawn(self._send())
        self.spawn(self._watch_ticks())
        try:
            await self.until(lambda: self.calls > 0, ("the server's Welcome", lambda: self.calls))
        except BaseException:
            await self.close()
            raise

    def accept(self, tick: Tick, max_staleness: int | None = None) -> Slot:
        """Check a tick and queue it. Raises TickRefused, and what `check` raises."""
        self.check()
        owed = self.outbox.owes
        slot = self.ledger.accept(tick, max_staleness)
        if not owed:
            self._owed_since = self._loop.time()
        if max_staleness is not None:
            self.expect(judged=EVERY)
        self._wake.set()
        return slot

    def accept_or_refuse(self, tick: Tick, max_staleness: int | None = None) -> Slot:
        """Return `accept` of a tick, or the slot of a tick that failed the check. Raises what `check` raises."""
        try:
            return self.accept(tick, max_staleness)
        except TickRefused as error:
            if error is self.error:
                raise
            return Slot.refused(error)

    def expect(self, durable: int = 0, judged: int = 0) -> None:
        """Ask the server to report its progress up to these seqs at once, not only with forecasts."""
        self._expected = Expected(max(self._expected.durable, durable), max(self._expected.judged, judged))
        self._wake.set()

    def reset(self) -> None:
        """Queue a Reset after the ticks so far. Raises what `check` raises."""
        self.check()
        self.ledger.reset()
        self._wake.set()

    async def label(self, seq: int, y: Any) -> None:
        """Send a label and wait until it is on disk. Raises LabelRefused, and what `check` raises."""
        self.check()
        values = self.ledger.label_values(seq, y)
        coming = "labels to reach the server's disk", lambda: self.labels.finished
        await self.until(lambda: len(self.labels) < self.ledger.max_undurable, coming)
        label = Label(seq, values, self._loop.create_future())
        self.labels.append(label)
        self._wake.set()
        await self._waits.outcome(label.done, (f"the label of tick {seq} to reach the server's disk", coming[1]))

    def check(self) -> None:
        """Raise the reason why this stream accepts nothing more, if there is one."""
        forks.check()
        if self.error is not None:
            raise self.error
        if self._closing:
            raise StreamClosed("the stream is closed")
        if self._runner is None:
            raise NotOpen("stream", "client.stream(…) as stream")

    @property
    def state(self) -> str:
        """The state of the stream in a word, as `shown.state` gives it."""
        return shown.state(
            opened=self._runner is not None, connected=self._link is not None, welcomed=self.calls > 0,
            closing=self._closing, error=self.error,
        )  # fmt: skip

    @property
    def address(self) -> str:
        """The address of the node of the present call, or of the last one; empty before the first Welcome."""
        return self._open_call.address if self.calls else ""

    async def until(self, done: Callable[[], bool], wanted: Wanted | None = None) -> None:
        """Wait as `Waits.until` does; the condition is tested after every message. Raises the stream's error."""
        forks.check()
        await self._waits.until(done, wanted)

    def notify(self) -> None:
        """Wake every wait in `until`."""
        self._waits.notify()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` until it ends or the stream closes."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # mark it as retrieved
        self.notify()

    async def close(self) -> None:
        """Wait, at most `close_s`, until everything sent is answered and on disk; then end the call and every task.

        Ticks never sent are dropped, labels are not. Raises Unavailable if the disk was not confirmed in time, and
        nothing if the stream had failed before. Does nothing when repeated.
        """
        if self._closing or forks.forked():
            return
        self._closing = True
        for slot in self.outbox.discard_unsent():
            slot.set_outcome(StreamClosed("the stream was closed before this tick was sent"))
        self._wake.set()
        self.notify()
        try:
            if self._runner is not None and self.error is None and self.calls:
                await asyncio.wait({self._runner}, timeout=self._settings.close_s)
        finally:
            failed, labels = self.error is not None, len(self.labels)
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            self._fail(StreamClosed("the stream is closed"))
            await asyncio.gather(*tasks, return_exceptions=True)
        outbox = self.outbox
        if not failed and self.calls and outbox.durable < outbox.next_seq - 1:
            raise Unavailable(
                f"closed after {self._settings.close_s:g} s with ticks {outbox.durable + 1} to {outbox.next_seq - 1} "
                "sent and not confirmed on disk"
            )
        if not failed and self.calls and labels:
            raise Unavailable(f"closed after {self._settings.close_s:g} s with {labels} labels not confirmed on disk")

    # --- writing

    async def _pump(self) -> None:
        """Write everything that may be sent now."""
        link = self._link
        if link is None:
            return
        try:
            while link is self._link:
                if (label := self.labels.next_to_send(self.outbox.known_before)) is not None:
                    await link.call.write(pb.OpenRequest(label=pb.Label(seq=label.seq, y=label.y)))
                    continue
                if (item := self.outbox.next_to_send()) is None:
                    break
                await link.call.write(self._request(item, link.most, self._loop.time()))
                if isinstance(item, Reset):
                    self.notify()
            if (expected := self._to_expect(link)) is not None:
                link.expected = self._expected
                await link.call.write(pb.OpenRequest(expect=expected))
            if self._closing and self.outbox.quiet and not self.labels.waiting and not link.half_closed:
                link.half_closed = True
                await link.call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the call has ended; the reader gets the reason
        except asyncio.CancelledError:
            if cancelled_from_outside():
                raise

    def _request(self, item: Entry[Slot] | Reset, most: int, now: float) -> pb.OpenRequest:
        """Return the message for an item of the outbox, and for the ticks after it that may be sent now."""
        entries: list[Entry[Slot]] = []
        while isinstance(item, Entry):
            entries.append(item)
            # After a tick comes no Reset: that waits until nothing is on the wire.
            if len(entries) == most or (following := self.outbox.next_to_send()) is None:
                break
            item = following
        return self.ledger.together(entries, now) if len(entries) > 1 else self.ledger.request(item, now)

    def _to_expect(self, link: Link) -> pb.Expect | None:
        """Return what the server is to report on this call, if it does not know that yet."""
        durable, judged = self._expected
        known, outbox = link.expected, self.outbox
        if link.spares and (durable > max(known.durable, outbox.durable) or judged > max(known.judged, outbox.judged)):
            return pb.Expect(durable_seq=durable, judged_through=judged)
        return None

    async def _send(self) -> None:
        """Write whenever there may be something to write.

        This is the only task that writes: gRPC ends a call whose write is cancelled, and a user's task may be
        cancelled.
        """
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._pump()
        except Exception as error:  # a bug in this code is raised
            self._end(error)

    # --- calling and reading

    async def _run(self) -> None:
        """Make calls, one after the other, until the stream is closed or fails."""
        try:
            while (why := await self._one_call()) is not None:
                self._waits.last_call = why
                await self._open_call.pause(self._backoff, why)
        except Exception as error:
            self._fail(error)

    async def _one_call(self) -> str | None:
        """Make one call, from Hello to its end. Returns why to call again, or None after a clean end"""
        call = await self._open_call()
        link = Link(call, Owed(self._owes, self._settings.answer_s, self._quiet))
        watching = self.spawn(link.owed.watch(call))
        try:
            with contextlib.suppress(asyncio.InvalidStateError):  # the call has ended; reading gives the reason
                await link.call.write(pb.OpenRequest(hello=self.hello))
            async for message in link.call:  # not `read`, which drops received messages after a failed write
                self._receive(link, message)
            if link.half_closed:  # the server ends a half-closed call cleanly only after all is on disk
                self.outbox.durable_through(self.outbox.next_seq - 1, self.outbox.judged)
                self.labels.all_durable()
                return None
            why = self._open_call.ended("ended by the server")
        except grpc.aio.AioRpcError as error:
            why = await self._open_call.failed(error, self.calls > 0)
        except asyncio.CancelledError:
            if cancelled_from_outside():
                raise
            why = self._open_call.ended(link.owed.cut)
        finally:
            self._link = None
            self.outbox.disconnected()
            self.labels.disconnected()
            watching.cancel()
            link.call.cancel()
        return why

    def _owes(self) -> bool:
        """Whether the server is to welcome this call, or to answer a tick."""
        return self.outbox.on_wire > 0 or not self.outbox.connected

    def _quiet(self) -> None:
        """Record that a call that has lived for a while owes nothing: a success. (A Welcome alone is not: it may be the
        last message.)"""
        self._open_call.succeeded(self._backoff)

    async def _watch_ticks(self) -> None:
        """End the stream when its unanswered ticks have made no progress for `give_up_s`."""
        most = self._waits.give_up_s
        while True:
            left = self._owed_since + most - self._loop.time() if self.outbox.owes else most
            if left <= 0:
                late = self.ledger.put_off
                why = f", which the server delays: {late}" if late else ""
                return self._end(self._waits.gave_up(self.outbox.wants + why))
            await asyncio.sleep(left)

    def _receive(self, link: Link, message: pb.OpenResponse) -> None:
        """Handle one message, then wake the waits. Raises an error that ends the stream."""
        now = self._loop.time()
        link.owed.heard()
        kind, outbox = message.WhichOneof("message"), self.outbox
        before = outbox.answered, outbox.durable, outbox.judged
        if kind == "forecast":
            self.ledger.forecast(message.forecast, now)
            self._open_call.succeeded(self._backoff)
        elif kind == "durable":
            self.outbox.durable_through(message.durable.seq, message.durable.judged_through)
            self.labels.durable(message.durable.labels)
            self._open_call.succeeded(self._backoff)
        elif kind == "refused" and message.refused.item:
            if self.labels.refused(message.refused.item, label_refused(message.refused)):
                self._loop.call_later(message.refused.retry_s or OVERLOAD_S, self._retry_overloaded)
        elif kind == "refused":
            self._refused(message.refused, now)
        elif kind == "outcomes":
            for outcome in outcomes(message.outcomes):
                if isinstance(outcome, Answered):
                    self.ledger.forecast(outcome, now)
                else:
                    self._refused(outcome, now)
            self._open_call.succeeded(self._backoff)
        elif kind == "welcome":
            self.ledger.welcome(message.welcome)
            self._link, link.spares = link, message.welcome.durable_in_forecasts
            # Half of the ticks on the wire, so that client and server need not wait for each other.
            link.most = max(1, min(message.welcome.max_ticks, self._settings.in_flight // 2))
            self.calls += 1
            self._wake.set()
            self._open_call.served()
        elif kind == "reconnect":
            self._link = None
            self._open_call.moved(message.reconnect.address)
            self._loop.call_later(LEAVE_S, link.call.cancel)
        elif kind == "taken_over":
            raise TakenOver(f"another client has opened {self.hello.stream!r}: {message.taken_over.by}")
        if outbox.answered > before[0] or (not outbox.on_wire and (outbox.durable, outbox.judged) > before[1:]):
            self._owed_since = now
        if self._closing or outbox.waiting or self.labels.waiting:
            self._wake.set()
        self.notify()

    def _refused(self, refused: types_pb2.Refused, now: float) -> None:
        """Handle the refusal of one tick."""
        action = self.ledger.refused(refused, now)
        if action is Action.HOLD:
            self._loop.call_later(refused.retry_s or OVERLOAD_S, self._retry_overloaded)
        elif action is Action.DROP:
            self._owed_since = now
        self._open_call.succeeded(self._backoff)

    def _retry_overloaded(self) -> None:
        self.outbox.release()
        self.labels.release()
        self._wake.set()

    def _end(self, error: Exception) -> None:
        """End the stream and stop calling."""
        self._fail(error)
        if self._runner is not None:
            self._runner.cancel()

    def _fail(self, error: Exception) -> None:
        """End the stream and give its error to every waiter. Only the first error counts."""
        if self.error is None:
            self.error = error
            self.ledger.fail(error)
            self.labels.fail(error)
            self.notify()
