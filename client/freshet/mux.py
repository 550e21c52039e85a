"""Many streams of one model in one call: for gateways and other programs with thousands of entities."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np

from freshet import forks, shown
from freshet.batch import Batch
from freshet.bindings import Bindings
from freshet.calls import Opener, cancelled_from_outside
from freshet.errors import FreshetError, InvalidArgument, NotOpen, StateLost, StreamClosed, TakenOver, Unavailable
from freshet.offsets import of_channels
from freshet.packed import Packed, Unconfirmed, Wave
from freshet.precision import Watch
from freshet.results import Model
from freshet.retry import Backoff
from freshet.v1 import streams_pb2 as pb
from freshet.waits import Waits

LEAVE_S = 1.0  # how long a server that asked us to reconnect may still answer
NAMED = 5  # at most this many streams are named in a message


class Mux:
    """Streams of one model, packed. Made by `Client.mux`; open it with `async with`. For use in one event loop.

    It reconnects by itself and sends again the ticks that a crashed server had not yet written to disk. Calls of `step`
    take turns: each is answered before the next is sent.
    """

    # One task reads the call and another writes it. A step only waits, so it may be cancelled at any moment.

    def __init__(
        self,
        open_call: Opener[Any],
        model: Callable[[], Any],
        name: str,
        give_up_s: float,
        close_s: float,
        accept_lost: bool = False,
        offset: Any = None,
    ) -> None:
        self._open_call, self._get_model, self._name = open_call, model, name
        self._give_up_s, self._close_s, self._accept_lost = give_up_s, close_s, accept_lost
        self._backoff, self._waits = Backoff(give_up_s, random.Random()), Waits(give_up_s, self._check)
        self._bindings, self._sent = Bindings(), Unconfirmed()
        self._given_offset = offset  # as `offsets.checked` gives it
        self._turns: deque[object] = deque()  # steps under way, in the order of their turns
        self._outgoing: deque[pb.Columns] = deque()  # messages to write on this call
        self._progress = 0  # answers so far
        self._ready = False  # this call has bound every stream, and the resent ticks are queued
        self._leaving = False  # the server has asked us to reconnect
        self._was_open = False  # the server has answered on some call
        self._error: Exception | None = None
        self._closing = False
        self._runner: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = shown.state(
            opened=self._runner is not None, connected=self._ready, welcomed=self._was_open, closing=self._closing,
            error=self._error,
        )  # fmt: skip
        streams = shown.count(len(self._bindings.handle), "stream")
        unconfirmed = f"{shown.count(len(self._sent.waves), 'message')} not on disk"
        return shown.handle(f"Mux of model {self._name!r}", state, streams, unconfirmed)

    async def open(self) -> Self:
        """Look up the model and start. `async with` calls it. Raises NotFound, Unavailable …"""
        forks.check()
        if self._runner is not None or self._closing:
            raise StreamClosed("this Mux was opened before; make another with client.mux(…)")
        model: Model = await self._get_model()
        self.spec = model.spec
        self._offset = of_channels(self._given_offset, self.spec.channels)
        self._watch = Watch(self.spec.channels)  # by handle
        self._runner = asyncio.create_task(self._run())
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Wait, at most `close_s`, until the answered ticks are on disk; then end the call. Safe to repeat."""
        if self._closing or forks.forked():
            return
        self._closing = True
        if self._runner is None:
            return
        try:
            with contextlib.suppress(TimeoutError, FreshetError):
                async with asyncio.timeout(self._close_s):
                    await self._waits.until(lambda: not self._sent.waves)
        finally:
            self._runner.cancel()
            self._fail(StreamClosed("this Mux is closed"))
            await asyncio.gather(self._runner, return_exceptions=True)

    # --- for the user

    async def step(
        self,
        streams: Sequence[str],
        x: Any,
        time: Any = None,
        *,
        offset: Any = None,
        known: Any = None,
        static: Any = None,
    ) -> Packed:
        """Send one tick of each of n streams and return all their forecasts.

        streams: n ids; an integer stands for its digits. An id may occur several times; its ticks are in that order.
            The server creates streams with new ids and takes over those open elsewhere.
        x: [n, channels] array-like ((n,) for one channel), or a frame, whose columns are matched to the channels by
            name.
        time: one for all, or n: seconds since 1970-01-01 UTC, datetime or datetime64; required if the model has an
            interval.
        offset: in the shapes of x; subtracted from each row in float64 and added to its forecasts, instead of the Mux's
            own offset. Keep it the same for a stream.
        known: the model's known inputs for the steps that are forecast: a mapping from each name to [n, horizon], or an
            array [n, horizon, known].
        static: the model's static inputs by name, a number for all streams or n; new streams need them.

        Refused ticks, and values that cannot be an id, are in `Packed.refused`; the other rows are answered. Cancelling
        does not withdraw sent ticks. Raises InvalidArgument for wrong shapes and names; StateLost, once for each stream
        whose state the server has lost (the next step continues from the server's state); the error that ended the Mux;
        Unavailable after `give_up_s` without any answer.
        """
        self._check()
        if self._closing:
            raise StreamClosed("this Mux is closed")
        batch, turn = Batch.of(self.spec, streams, x, time, offset, self._offset, known, static), object()
        self._turns.append(turn)
        try:
            await self._until(lambda: self._turns[0] is turn and self._sent.answered, "the answers to an earlier step")
            await self._bind(batch)
            self._raise_lost(self._bindings.lost.keys() & set(batch.ids))
            self._watch.grow(self._bindings.size)
            batch.watch(self._watch, self._bindings.handle)
            waves = batch.waves(self._bindings.handle, self._bindings.next)
            self._send(waves)  # no await since the streams were bound
            await self._until(lambda: all(wave.done for wave in waves), f"the forecasts of {len(batch.ids)} ticks")
        finally:
            self._turns.remove(turn)
            self._waits.notify()
        packed = batch.packed(waves)
        self._raise_lost({batch.id(i) for i, error in packed.refused.items() if isinstance(error, StateLost)}, packed)
        return packed

    @property
    def streams(self) -> list[str]:
        """Ids of the streams stepped so far, in the order of their first ticks."""
        return list(self._bindings.handle)

    # --- inside

    async def _bind(self, batch: Batch) -> None:
        """Wait until every stream of the batch is bound in the current call, or refused."""
        ids, bindings = batch.ids, self._bindings
        batch.refuse(bindings.remember(batch.statics))
        ids = batch.ids
        bindings.want(ids)
        self._sent.grow(bindings.size)
        self._waits.notify()
        await self._until(lambda: self._ready and bindings.bound_or_refused(ids), f"{len(ids)} streams to be bound")
        batch.refuse(bindings.refused)

    def _send(self, waves: Sequence[Wave]) -> None:
        self._sent.waves.extend(waves)
        self._outgoing.extend(wave.message() for wave in waves)
        self._waits.notify()

    def _raise_lost(self, ids: set[str], packed: Packed | None = None) -> None:
        """Report lost states, once for each stream."""
        why = {id: self._bindings.lost.pop(id, "") for id in sorted(ids)}
        if why and not self._accept_lost:
            names = ", ".join(map(repr, list(why)[:NAMED])) + (" …" if len(why) > NAMED else "")
            error = StateLost(
                f"the server has lost the state of {len(why)} streams, {names}: {next(iter(why.values()))}; step them "
                "again to continue from the server's state, or make the Mux with accept_lost=True"
            )
            error.streams, error.packed = tuple(why), packed
            raise error

    def _check(self) -> None:
        forks.check()
        if self._error is not None:
            raise self._error
        if self._runner is None:
            raise NotOpen("Mux", "client.mux(…) as mux")

    async def _until(self, done: Callable[[], bool], what: str) -> None:
        """Wait for answers of the server. If none arrives for `give_up_s`, the Mux fails."""
        try:
            await self._waits.until(done, (what, lambda: self._progress))
        except Unavailable as error:
            self._fail(error)
            raise

    def _fail(self, error: Exception) -> None:
        """End the Mux and wake every waiter. Only the first error counts."""
        if self._error is None:
            self._error = error
            if self._runner is not None:
                self._runner.cancel()
        self._waits.notify()

    # --- calling and reading

    async def _run(self) -> None:
        """Make calls, one after the other."""
        try:
            while True:
                self._waits.last_call = why = await self._one_call()
                await self._open_call.pause(self._backoff, why)
        except Exception as error:
            self._fail(error)

    async def _one_call(self) -> str:
        call = await self._open_call()
        self._bindings.start_call()
        self._leaving = False
        sending = asyncio.create_task(self._write(call))
        sending.add_done_callback(lambda task: task.cancelled() or (task.exception() and call.cancel()))
        try:
            self._resend_once_bound()
            async for message in call:  # not `read`, which drops received messages after a failed write
                self._receive(call, message)
            return self._open_call.ended("ended by the server")
        except grpc.aio.AioRpcError as error:
            return await self._open_call.failed(error, self._was_open)
        except asyncio.CancelledError:
            if cancelled_from_outside():
                raise
            if sending.done():
                sending.result()  # a bug in the writer is raised
            return self._open_call.ended("cut: the server was shutting down")
        finally:
            self._ready = False
            self._outgoing.clear()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            call.cancel()

    async def _write(self, call: Any) -> None:
        """Write the model's name, then bindings and ticks, for as long as the call lives."""
        message = pb.MuxRequest(model=self._name, bind=self._bindings.ask())
        with contextlib.suppress(
            grpc.aio.AioRpcError, asyncio.InvalidStateError
        ):  # the call has ended; the reader gets the reason
            while True:
                await call.write(message)
                await self._waits.until(lambda: not self._leaving and (self._bindings.unasked or bool(self._outgoing)))
                if self._bindings.unasked:
                    message = pb.MuxRequest(bind=self._bindings.ask())
                else:
                    message = pb.MuxRequest(ticks=self._outgoing.popleft())

    def _receive(self, call: Any, message: pb.MuxResponse) -> None:
        """Handle one message, then wake every waiter. Raises an error that ends the Mux."""
        self._was_open = True
        before = self._progress
        for bound in message.bound:
            self._receive_bound(bound)
        for refused in message.refused:
            self._receive_refused(refused)
        if message.HasField("forecasts"):
            self._progress += sum(wave.receive(message.forecasts) for wave in self._sent.waves if not wave.done)
        if message.HasField("durable"):
            self._sent.confirm(np.frombuffer(message.durable.handle, "<u4"), np.frombuffer(message.durable.seq, "<u8"))
        for handle in message.taken_over:
            self._forget(handle, TakenOver("another client has opened this stream"))
        if message.HasField("reconnect"):
            self._ready, self._leaving = False, True
            self._open_call.moved(message.reconnect.address)
            asyncio.get_running_loop().call_later(LEAVE_S, call.cancel)
        self._count()
        self._resend_once_bound()
        if self._progress != before:
            self._open_call.served()
            self._open_call.succeeded(self._backoff)
        self._waits.notify()

    def _resend_once_bound(self) -> None:
        """Once every stream is bound, queue the ticks to send again, before any new ones."""
        if not self._ready and not self._leaving and not self._bindings.unbound:
            self._ready = True
            self._outgoing.extend(self._sent.to_resend(self._bindings.servers))
            self._waits.notify()

    def _count(self) -> None:
        """Advance the streams past answered ticks, also if the step that sent them was cancelled."""
        for wave in self._sent.waves:
            if wave.done and not wave.counted:
                wave.counted, accepted = True, wave.accepted
                self._bindings.count(wave.handle[accepted], wave.seq[accepted])
        self._sent.forget_confirmed()

    def _receive_bound(self, bound: pb.Bound) -> None:
        handle = bound.handle
        if handle not in self._bindings:
            return
        self._progress += 1
        lost = self._bindings.receive(bound, int(self._sent.durable[handle]))
        if lost is not None:
            self._sent.drop(handle, bound.durable_seq, StateLost(f"the server has lost this stream's state: {lost}"))
        self._sent.confirm(np.array([handle], np.uint32), np.array([bound.durable_seq], np.uint64))

    def _receive_refused(self, message: pb.HandleRefused) -> None:
        r = message.refused
        if r.seq:
            self._progress += sum(wave.refuse(message) for wave in self._sent.waves if not wave.done)
            return
        error = InvalidArgument(f"{r.field} = {r.value}; {r.remedy}", r.field, r.value, r.remedy)
        if message.handle not in self._bindings:
            raise error
        self._progress += 1
        self._forget(message.handle, error)

    def _forget(self, handle: int, error: FreshetError) -> None:
        """Release a handle that the server refused or took away. A later step of its stream gets another handle."""
        if handle in self._bindings:
            self._bindings.refuse(handle, error)
            self._sent.drop(handle, int(self._sent.durable[handle]), error)
