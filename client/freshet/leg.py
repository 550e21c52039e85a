"""One call of a Mux at a time: to the node that serves some of its streams."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from freshet import shown
from freshet.bindings import Bindings
from freshet.calls import Opener, cancelled_from_outside
from freshet.errors import FreshetError, InvalidArgument, Reason, StateLost, TakenOver
from freshet.owed import Owed
from freshet.packed import Ticks, Unconfirmed
from freshet.retry import Backoff
from freshet.v1 import streams_pb2 as pb
from freshet.waits import Waits

LEAVE_S = 1.0  # how long a server that asked us to reconnect may still answer


@dataclass(slots=True, eq=False)
class Way:
    """Of a stream that nodes refer to each other. named: which node each has named, in the order of asking."""

    backoff: Backoff
    named: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shared:
    """What the calls of one Mux have in common.

    answer_s: a call that owes an answer for longer is cut and repeated, seconds.
    ways: of the streams that were referred to another node and are not bound since, by handle.
    moved: a node has named another one for a stream. reached: a call is about to be opened at its node; returns whether
    another call to that node has taken over its streams.
    """

    model: str
    bindings: Bindings
    sent: Unconfirmed
    waits: Waits
    answer_s: float
    ways: dict[int, Way]
    moved: Callable[[Leg, int, str], None]
    reached: Callable[[Leg], bool]


class Leg:
    """The calls to one node, one after the other. number: of the call, in the bindings."""

    def __init__(self, shared: Shared, number: int, open_call: Opener[Any], backoff: Backoff) -> None:
        self.number, self.open_call = number, open_call
        self.outgoing: deque[Ticks] = deque()  # to write on this call
        self.progress = 0  # answers so far
        self.ready = False  # this call has bound every stream that it had, and the resent ticks are queued
        self.was_open = False  # the node has answered on some call
        self.closed = False  # its streams are elsewhere
        self._shared, self._bindings, self._sent, self._backoff = shared, shared.bindings, shared.sent, backoff
        self._call: Any = None
        self._owed: Owed | None = None  # of the present call; None: none is open
        self._leaving = False  # the node has asked us to reconnect
        self._gone: set[int] = set()  # handles whose streams were in this call, and are elsewhere now
        self._coming: set[int] = set()  # handles whose streams came to this call after it was ready, with their ticks

    def __repr__(self) -> str:
        """State, for errors: what waits here, and for what."""
        bindings, number = self._bindings, self.number
        parts = [
            shown.count(bindings.streams_of(number), "stream"),
            f"{len(bindings.unbound[number])} not bound",
            f"{bindings.unasked(number)} not asked for",
            f"{shown.count(len(self.outgoing), 'message')} to write",
            "no open call" if self._owed is None else f"no message for {self._owed.silent_s:.0f} s",
        ]
        return f"{self.open_call.heading or 'no node yet'}: {', '.join(parts)}"

    # --- streams that come and go

    def take(self, handle: int) -> None:
        """Take over a stream; its ticks are sent again once it is bound."""
        self._bindings.assign(handle, self.number)
        if handle in self._gone:  # it was here before: what is left of that time is not written any more
            self._gone.discard(handle)
            self.outgoing = deque(rest for ticks in self.outgoing if (rest := ticks.without({handle})) is not None)
        if self.ready:
            self._coming.add(handle)

    def release(self, handle: int) -> None:
        """Let a stream go: nothing more of it is written on this call."""
        self._gone.add(handle)
        self._coming.discard(handle)

    def turn_back(self) -> None:
        """End a call that went astray, and call again: the node that answers it names the other one for good reason."""
        if self._call is not None and self.open_call.astray:
            self.ready, self._leaving = False, True
            self._call.cancel()

    def close(self) -> None:
        """End the call, and call no more."""
        self.closed = True
        if self._call is not None:
            self._call.cancel()

    # --- calling, reading and writing

    async def run(self) -> None:
        """Make calls, one after the other, until it is closed. Raises FreshetError."""
        while not self.closed and (why := await self._one_call()) is not None:
            self._shared.waits.last_call = why
            await self.open_call.pause(self._backoff, why)

    async def _one_call(self) -> str | None:
        """Make one call. Returns why to call again, or None if there is nothing to call for."""
        await self.open_call.reach()
        if self.closed or self._shared.reached(self):
            return None
        self._call = call = self.open_call.open()
        self._bindings.start_call(self.number)
        self._leaving = False
        self._gone.clear()
        self._coming.clear()
        self._owed = owed = Owed(self._owes, self._shared.answer_s)
        watching = asyncio.create_task(owed.watch(call))
        sending = asyncio.create_task(self._write(call))
        sending.add_done_callback(lambda task: task.cancelled() or (task.exception() and call.cancel()))
        try:
            self._resend_once_bound()
            async for message in call:  # not `read`, which drops received messages after a failed write
                self._receive(call, message)
            return self.open_call.ended("ended by the server")
        except grpc.aio.AioRpcError as error:
            return None if self.closed else await self.open_call.failed(error, self.was_open)
        except asyncio.CancelledError:
            if cancelled_from_outside():
                raise
            if sending.done() and not sending.cancelled():  # a write on a call that is cancelled ends so
                sending.result()  # a bug in the writer is raised
            if self.closed:
                return None
            return self.open_call.ended(owed.cut)
        finally:
            self.ready, self._owed = False, None
            self.outgoing.clear()
            sending.cancel()
            watching.cancel()
            await asyncio.gather(sending, watching, return_exceptions=True)
            call.cancel()

    async def _write(self, call: Any) -> None:
        """Write the model's name, then bindings and ticks, for as long as the call lives."""
        message = pb.MuxRequest(model=self._shared.model, bind=self._bindings.ask(self.number))
        # Where the call has ended, its reader gets the reason.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await call.write(message)
                while (following := self._next()) is None:
                    await self._shared.waits.until(self._has_work)
                message = following

    def _has_work(self) -> bool:
        return not self._leaving and (self._bindings.unasked(self.number) > 0 or bool(self.outgoing))

    def _next(self) -> pb.MuxRequest | None:
        """Return the next message to write; None if there is nothing to write."""
        if not self._has_work():
            return None
        if self._bindings.unasked(self.number):
            return pb.MuxRequest(bind=self._bindings.ask(self.number))
        ticks: Ticks | None = self.outgoing.popleft()
        if self._gone and ticks is not None:
            ticks = ticks.without({handle for handle in self._gone if not self._has(handle)})
        return None if ticks is None else pb.MuxRequest(ticks=ticks.message())

    def _receive(self, call: Any, message: pb.MuxResponse) -> None:
        """Handle one message, then wake every waiter. Raises an error that ends the Mux."""
        if self.closed:
            return
        if self._owed is not None:
            self._owed.heard()
        self.was_open = True
        before = self.progress
        if message.bound:
            self.open_call.served()
        for bound in message.bound:
            self._receive_bound(bound)
        for refused in message.refused:
            self._receive_refused(refused)
        if message.HasField("forecasts"):
            self.progress += sum(wave.receive(message.forecasts) for wave in self._sent.waves if not wave.done)
        if message.HasField("durable"):
            self._sent.confirm(np.frombuffer(message.durable.handle, "<u4"), np.frombuffer(message.durable.seq, "<u8"))
        for handle in message.taken_over:
            if self._has(handle):
                self._forget(handle, TakenOver("another client has opened this stream"))
        if message.HasField("reconnect"):
            self.ready, self._leaving = False, True
            self.open_call.moved(message.reconnect.address)
            asyncio.get_running_loop().call_later(LEAVE_S, call.cancel)
        self._count()
        self._resend_once_bound()
        if self.progress != before:
            self.open_call.succeeded(self._backoff)
        self._shared.waits.notify()

    def _resend_once_bound(self) -> None:
        """Once every stream is bound, queue the ticks to send again, before any new ones. So for each that comes
        later."""
        if self._leaving or self.closed:
            return
        bindings, unbound = self._bindings, self._bindings.unbound[self.number]
        if self.ready:
            if bound := self._coming - unbound:
                self._coming -= bound
                mine = np.zeros(len(bindings.leg), np.bool_)
                mine[list(bound)] = True
                self.outgoing.extend(self._sent.to_resend(bindings.servers, mine))
        elif not unbound:
            self.ready = True
            self.outgoing.extend(self._sent.to_resend(bindings.servers, bindings.leg == self.number))
            self._shared.waits.notify()

    def _count(self) -> None:
        """Advance the streams past answered ticks, also if the step that sent them was cancelled."""
        for wave in self._sent.waves:
            if wave.done and not wave.counted:
                wave.counted, accepted = True, wave.accepted
                self._bindings.count(wave.handle[accepted], wave.seq[accepted])
        self._sent.forget_confirmed()

    def _owes(self) -> bool:
        """Whether the node of this call is to bind a stream, or to answer a tick."""
        return bool(self._bindings.unbound[self.number]) or self._sent.owes(self._bindings.leg == self.number)

    def _has(self, handle: int) -> bool:
        """Whether this call serves the stream of a handle."""
        return handle in self._bindings and int(self._bindings.leg[handle]) == self.number

    def _receive_bound(self, bound: pb.Bound) -> None:
        handle = bound.handle
        if not self._has(handle):
            return
        self.progress += 1
        self._shared.ways.pop(handle, None)
        lost = self._bindings.receive(bound, int(self._sent.durable[handle]))
        if lost is not None:
            self._sent.drop(handle, bound.durable_seq, StateLost(f"the server has lost this stream's state: {lost}"))
        self._sent.confirm(np.array([handle], np.uint32), np.array([bound.durable_seq], np.uint64))

    def _receive_refused(self, message: pb.HandleRefused) -> None:
        r, handle = message.refused, message.handle
        known = handle in self._bindings
        if known and (not self._has(handle) or (r.seq and handle in self._bindings.unbound[self.number])):
            return  # of ticks that were sent before the stream went elsewhere
        if known and Reason(r.reason) is Reason.MOVED and message.address:
            self.release(handle)
            self._shared.moved(self, handle, message.address)
            return
        if r.seq:
            self.progress += sum(wave.refuse(message) for wave in self._sent.waves if not wave.done)
            return
        error = InvalidArgument(f"{r.field} = {r.value}; {r.remedy}", r.field, r.value, r.remedy)
        if not known:
            raise error
        self.progress += 1
        self._forget(handle, error)

    def _forget(self, handle: int, error: FreshetError) -> None:
        """Release a handle that the server refused or took away. A later step of its stream gets another handle."""
        self._shared.ways.pop(handle, None)
        self._bindings.refuse(handle, error)
        self._sent.drop(handle, int(self._sent.durable[handle]), error)
