"""Many streams of one model in one call: for a gateway, or any program that speaks for thousands of entities."""

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

LEAVE_S = 1.0  # a server that asked us to reconnect has this long to finish what it owes
NAMED = 5  # streams that a message names


class Mux:
    """Streams of one model, packed. Made by `Client.mux`; open it with `async with`. For use in one event loop.

    It reconnects by itself, and sends again what the server had not yet written to disk when it died. Calls of `step`
    take turns: one is answered before the next is sent.
    """

    # A step only waits: one task reads the call and another writes it, so that a step may be cancelled at any moment.

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
        self._turns: deque[object] = deque()  # the steps under way, the one whose turn it is first
        self._outgoing: deque[pb.Columns] = deque()  # to be written on this call
        self._progress = 0  # answers so far
        self._ready = False  # the call has bound every stream, and what must be sent again is on its way
        self._leaving = False  # the server has asked for another call
        self._was_open = False  # a call of it was ever answered
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
        """Look the model up. Raises NotFound, Unavailable … `async with` does it at its start."""
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
        """Wait, at most `close_s`, until what was answered is on disk; then end the call. Safe any number of times."""
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

    # --- what is asked

    async def step(self, streams: Sequence[str], x: Any, time: Any = None, *, offset: Any = None) -> Packed:
        """Send one tick of each of n streams and wait for all their forecasts.

        streams: ids, an integer as its digits; one that occurs several times gets its ticks in that order. A stream
        that was never seen is created; one that is open elsewhere is taken over. x: [n, channels] array-like ((n,) for
        one channel), or a frame, its columns matched to the channels by name. time: one for all, or n of them: seconds
        since 1970-01-01 UTC, datetime or datetime64; required when the model has an interval. offset: as x, what is
        subtracted from each row in float64, and added to its forecasts, instead of the Mux's own offset; always the
        same for one stream.
        Refused ticks, and ids that none can be, are in `Packed.refused`; the other rows are answered. Cancelling does
        not take back what was sent. Raises InvalidArgument for shapes and names; StateLost, once for each stream that
        the server has lost: the next step goes on from what the server has of it; and what ended the Mux, Unavailable
        after `give_up_s` without any answer.
        """
        self._check()
        if self._closing:
            raise StreamClosed("this Mux is closed")
        batch, turn = Batch.of(self.spec, streams, x, time, offset, self._offset), object()
        self._turns.append(turn)
        try:
            await self._until(lambda: self._turns[0] is turn and self._sent.answered, "the answers to an earlier step")
            await self._bind(batch)
            self._raise_lost(self._bindings.lost.keys() & set(batch.ids))
            self._watch.grow(self._bindings.size)
            batch.watch(self._watch, self._bindings.handle)
            waves = batch.waves(self._bindings.handle, self._bindings.next)
            self._send(waves)  # nothing has awaited since the streams were bound
            await self._until(lambda: all(wave.done for wave in waves), f"the forecasts of {len(batch.ids)} ticks")
        finally:
            self._turns.remove(turn)
            self._waits.notify()
        packed = batch.packed(waves)
        self._raise_lost({batch.id(i) for i, error in packed.refused.items() if isinstance(error, StateLost)}, packed)
        return packed

    @property
    def streams(self) -> list[str]:
        """Ids of the streams that have been stepped, in the order of their first tick."""
        return list(self._bindings.handle)

    # --- inside

    async def _bind(self, batch: Batch) -> None:
        """Make sure that every stream is bound in whatever call there is, or refused."""
        ids, bindings = batch.ids, self._bindings
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
        """Tell of streams whose state is lost, once."""
        why = {id: self._bindings.lost.pop(id, "") for id in sorted(ids)}
        if why and not self._accept_lost:
            names = ", ".join(map(repr, list(why)[:NAMED])) + (" …" if len(why) > NAMED else "")
            error = StateLost(
                f"the server has lost the state of {len(why)} streams, {names}: {next(iter(why.values()))}; step them "
                "again to go on from the server's state, or make the Mux with accept_lost=True"
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
        """Wait for what the server owes. If nothing comes for `give_up_s`, the Mux is over."""
        try:
            await self._waits.until(done, (what, lambda: self._progress))
        except Unavailable as error:
            self._fail(error)
            raise

    def _fail(self, error: Exception) -> None:
        """The Mux is over: everyone who waits is told why. Only the first reason counts."""
        if self._error is None:
            self._error = error
            if self._runner is not None:
                self._runner.cancel()
        self._waits.notify()

    # --- calling and reading

    async def _run(self) -> None:
        """One call after the other."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._waits.last_call = why = await self._one_call()
                wait = self._backoff.failed(loop.time())
                if wait is None:
                    raise Unavailable(f"no success for {self._give_up_s:g} s; the last call: {why}")
                await asyncio.sleep(wait)
        except Exception as error:
            self._fail(error)

    async def _one_call(self) -> str:
        call = self._open_call()
        self._bindings.start_call()
        self._leaving = False
        sending = asyncio.create_task(self._write(call))
        sending.add_done_callback(lambda task: task.cancelled() or (task.exception() and call.cancel()))
        try:
            self._resend_once_bound()
            async for message in call:  # not `read`, which forgets what has arrived once a write has failed
                self._receive(call, message)
            return "ended by the server"
        except grpc.aio.AioRpcError as error:
            return await self._open_call.failed(error, self._was_open)
        except asyncio.CancelledError:
            if cancelled_from_outside():
                raise
            if sending.done():
                sending.result()  # what no server can cause stays loud
            return "cut: the server was leaving"
        finally:
            self._ready = False
            self._outgoing.clear()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            call.cancel()

    async def _write(self, call: Any) -> None:
        """The model's name, then whatever is to be bound or sent, as long as the call lives."""
        message = pb.MuxRequest(model=self._name, bind=self._bindings.ask())
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # over: the reader learns why
            while True:
                await call.write(message)
                await self._waits.until(lambda: not self._leaving and (self._bindings.unasked or bool(self._outgoing)))
                if self._bindings.unasked:
                    message = pb.MuxRequest(bind=self._bindings.ask())
                else:
                    message = pb.MuxRequest(ticks=self._outgoing.popleft())

    def _receive(self, call: Any, message: pb.MuxResponse) -> None:
        """Act on one message, then let everyone it may concern look again. Raises what ends the Mux."""
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
            asyncio.get_running_loop().call_later(LEAVE_S, call.cancel)
        self._count()
        self._resend_once_bound()
        if self._progress != before:
            self._backoff.succeeded()
        self._waits.notify()

    def _resend_once_bound(self) -> None:
        """Once everything is bound: send again what must be; what is new comes behind it."""
        if not self._ready and not self._leaving and not self._bindings.unbound:
            self._ready = True
            self._outgoing.extend(self._sent.to_resend(self._bindings.servers))
            self._waits.notify()

    def _count(self) -> None:
        """Take what was answered into the numbers of the streams, whether anybody still waits for it or not."""
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
        """The server does not bind this handle, or no longer: its stream, stepped again, gets another."""
        if handle in self._bindings:
            self._bindings.refuse(handle, error)
            self._sent.drop(handle, int(self._sent.durable[handle]), error)
