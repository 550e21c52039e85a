"""Many streams of one model in one call: for a gateway, or any program that speaks for thousands of entities."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
import numpy.typing as npt

from freshet.arguments import listed
from freshet.calls import Opener
from freshet.errors import FreshetError, InvalidArgument, NotOpen, StateLost, StreamClosed, Unavailable, from_rpc
from freshet.frames import event_times, matrix, named_columns, plain
from freshet.packed import Packed, Unconfirmed, Wave
from freshet.results import Model
from freshet.retry import Backoff
from freshet.ticks import seconds
from freshet.v1 import streams_pb2 as pb

BIND_AT_ONCE = 10_000
MESSAGE_BYTES = 1 << 19  # of packed ticks: half of what a server takes by default
LEAVE_S = 1.0


class Mux:
    """Streams of one model, packed. Made by `Client.mux`; open it with `async with`. For use in one event loop.

    It reconnects by itself, and sends again what the server had not yet written to disk when it died. Calls of `step`
    take turns: one is answered before the next is sent.
    """

    def __init__(
        self, open_call: Opener[Any], model: Callable[[], Any], name: str, give_up_s: float, close_s: float
    ) -> None:
        self._open_call, self._get_model, self._name = open_call, model, name
        self._give_up_s, self._close_s = give_up_s, close_s
        self._backoff = Backoff(give_up_s, random.Random())
        self._handles: dict[str, int] = {}
        self._used = 0  # handles so far
        self._unbound: set[int] = set()  # handles that the server has not bound in this call
        self._unasked: list[str] = []  # streams that it was not asked to bind yet
        self._next = np.zeros(0, np.uint64)  # by handle: the seq of its next tick, as far as was answered
        self._servers = np.zeros(0, np.uint64)  # by handle: the seq at which the server went on in this call
        self._sent = Unconfirmed()
        self._turn, self._writing, self._moved = asyncio.Lock(), asyncio.Lock(), asyncio.Event()
        self._opened: Any = None  # a call that has named its model
        self._call: Any = None  # the same, once every handle was bound
        self._leaving = False  # the server has asked for another call
        self._was_open = False  # a call of it was ever answered
        self._error: Exception | None = None
        self._closing = False
        self._runner: asyncio.Task[None] | None = None

    async def open(self) -> Self:
        """Look the model up. Raises NotFound, Unavailable … `async with` does it at its start."""
        model: Model = await self._get_model()
        self.spec = model.spec
        self._runner = asyncio.create_task(self._run())
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Wait, at most `close_s`, until what was answered is on disk; then end the call. Safe any number of times."""
        if self._runner is None or self._closing:
            return
        self._closing = True
        with contextlib.suppress(TimeoutError, FreshetError):
            async with asyncio.timeout(self._close_s):
                await self._until(lambda: not self._sent.waves)
        self._runner.cancel()
        await asyncio.gather(self._runner, return_exceptions=True)
        self._fail(StreamClosed("this Mux is closed"))

    # --- what is asked

    async def step(self, streams: Sequence[str], x: Any, time: Any = None) -> Packed:
        """Send one tick of each of n streams and wait for all their forecasts.

        streams: ids; one that occurs several times gets its ticks in that order. A stream that was never seen is
        created; one that is open elsewhere is taken over. x: [n, channels] array-like ((n,) for one channel), or a
        frame, its columns matched to the channels by name. time: one for all, or n of them: seconds since 1970-01-01
        UTC, datetime or datetime64; required when the model has an interval. Refused ticks are in `Packed.refused`.
        Raises InvalidArgument for shapes and names, and what ended the Mux.
        """
        self._check()
        streams = np.asarray(streams).tolist() if hasattr(streams, "__array__") else listed(streams, "streams")
        rows, times = self._checked(streams, x, time)
        async with self._turn:
            self._check()
            await self._bind(streams)
            handle = np.array([self._handles[id] for id in streams], np.uint32)
            seq = self._next[handle] + _occurrence(handle)
            size = max(1, MESSAGE_BYTES // (20 + 4 * rows.shape[1]))
            waves = [
                Wave(handle[i : i + size], seq[i : i + size], rows[i : i + size],
                     None if times is None else times[i : i + size], self._outputs)
                for i in range(0, len(handle), size)
            ]  # fmt: skip
            for wave in waves:
                await self._send(wave)
            return self._packed(waves)

    @property
    def streams(self) -> list[str]:
        """Ids of the streams that have been stepped, in the order of their first tick."""
        return list(self._handles)

    # --- inside

    @property
    def _outputs(self) -> int:
        spec = self.spec
        return len(spec.classes) or (spec.horizon or 1) * (len(spec.targets) or len(spec.channels))

    def _checked(self, streams: Sequence[str], x: Any, time: Any) -> tuple[Any, Any]:
        n, channels = len(streams), len(self.spec.channels)
        columns = named_columns(x)
        values = plain(x) if columns is None else matrix(columns, self.spec.channels, "x")
        rows = np.asarray(values, np.float32)
        if channels == 1 and rows.ndim == 1:
            rows = rows[:, None]
        if rows.shape != (n, channels):
            remedy = f"give [{n}, {channels}]: a row per stream, a value per channel"
            raise InvalidArgument(f"x has shape {rows.shape}; {remedy}", "x", str(rows.shape), remedy)
        if time is None:
            if self.spec.interval > 0:
                raise InvalidArgument("time is missing: this model has an interval", "time", "None", "give event times")
            return rows, None
        several = isinstance(time, Iterable) and not isinstance(time, str)
        times = np.array([seconds(t) for t in event_times(time)] if several else [seconds(time)] * n)
        if len(times) != n:
            raise InvalidArgument(f"{len(times)} times for {n} streams", "time", str(len(times)), f"give {n}, or one")
        return rows, times

    async def _bind(self, streams: Sequence[str]) -> None:
        """Make sure that all of the streams are bound, in whatever call there is."""
        new = [id for id in dict.fromkeys(streams) if id not in self._handles]
        for id in new:
            self._handles[id] = self._used
            self._unbound.add(self._used)
            self._used += 1
        if self._used > len(self._next):
            grown = max(self._used, 2 * len(self._next))
            self._next, self._servers = _longer(self._next, grown), _longer(self._servers, grown)
            self._sent.grow(grown)
        self._unasked += new
        if self._opened is not None:
            await self._ask(self._opened)
        await self._until(lambda: self._call is not None and not self._unbound)

    async def _ask(self, call: Any, model: str = "") -> None:
        """Ask for what is not bound in this call. model: named first, to open the call."""
        while model or self._unasked:
            ids, self._unasked = self._unasked[:BIND_AT_ONCE], self._unasked[BIND_AT_ONCE:]
            bind = [pb.Bind(handle=self._handles[id], stream=id) for id in ids]
            await self._write(call, pb.MuxRequest(model=model, bind=bind))
            model = ""

    async def _send(self, wave: Wave) -> None:
        self._sent.waves.append(wave)
        if self._call is not None:
            await self._write(self._call, pb.MuxRequest(ticks=wave.message()))
        await self._until(lambda: wave.done)
        taken = np.ones(len(wave.seq), np.bool_)
        taken[list(wave.refused)] = False
        np.maximum.at(self._next, wave.handle[taken], wave.seq[taken] + np.uint64(1))
        self._sent.confirm(np.zeros(0, np.uint32), np.zeros(0, np.uint64))

    def _packed(self, waves: Sequence[Wave]) -> Packed:
        y = np.concatenate([wave.y for wave in waves])
        refused: dict[int, FreshetError] = {}
        lost: list[int] = []
        at = 0
        for wave in waves:
            refused |= {at + i: error for i, error in wave.refused.items()}
            lost += [at + i for i in wave.lost]
            at += len(wave.seq)
        seq, version, judged = (
            np.concatenate([getattr(wave, name) for wave in waves]) for name in ("seq", "version", "judged")
        )
        shape = (len(y), self.spec.horizon or 1, -1) if not self.spec.classes else (len(y), 1, -1)
        return Packed(y.reshape(shape), seq, version, judged, refused, lost)

    async def _write(self, call: Any, message: pb.MuxRequest) -> None:
        async with self._writing:
            await self._write_now(call, message)

    async def _write_now(self, call: Any, message: pb.MuxRequest) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # over: the reader learns why
            await call.write(message)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._runner is None:
            raise NotOpen("Mux", "client.mux(…) as mux")

    async def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._check()
            self._moved.clear()
            await self._moved.wait()

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._moved.set()

    # --- calling and reading

    async def _run(self) -> None:
        """One call after the other."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                why = await self._one_call()
                wait = self._backoff.failed(loop.time())
                if wait is None:
                    raise Unavailable(f"no success for {self._give_up_s:g} s; the last call: {why}")
                await asyncio.sleep(wait)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._fail(error)

    async def _one_call(self) -> str:
        call = self._open_call()
        self._unbound, self._unasked, self._leaving = set(self._handles.values()), list(self._handles), False
        try:
            await self._ask(call, self._name)
            self._opened = call
            await self._ready(call)
            async for message in call:
                await self._take(call, message)
            return "ended by the server"
        except grpc.aio.AioRpcError as error:
            if not self._open_call.passes(error, self._was_open):
                raise from_rpc(error) from error
            return f"{error.code().name}: {error.details()}"
        finally:
            self._opened = self._call = None
            call.cancel()

    async def _take(self, call: Any, message: pb.MuxResponse) -> None:
        """Act on one message. Raises what ends the Mux."""
        self._was_open = True
        if message.bound:
            for bound in message.bound:
                self._take_bound(bound)
            if self._call is None:
                await self._ready(call)
        if message.HasField("forecasts"):
            self._backoff.succeeded()
            for wave in self._sent.waves:
                wave.forecasts(message.forecasts)
        for refused in message.refused:
            if refused.refused.seq == 0:
                r = refused.refused
                raise InvalidArgument(f"{r.field} = {r.value}; {r.remedy}", r.field, r.value, r.remedy)
            for wave in self._sent.waves:
                wave.refuse(refused)
        if message.HasField("durable"):
            durable = message.durable
            self._sent.confirm(np.frombuffer(durable.handle, "<u4"), np.frombuffer(durable.seq, "<u8"))
        if message.taken_over:
            self._take_losses(set(message.taken_over))
        if message.HasField("reconnect"):
            self._opened = self._call = None
            self._leaving = True
            asyncio.get_running_loop().call_later(LEAVE_S, call.cancel)
        self._moved.set()

    async def _ready(self, call: Any) -> None:
        """Once everything is bound: send again what must be, and what is new behind it."""
        if not self._unbound and not self._leaving:
            async with self._writing:
                self._call = call
                for columns in self._sent.again(self._servers):
                    await self._write_now(call, pb.MuxRequest(ticks=columns))

    def _take_bound(self, bound: pb.Bound) -> None:
        handle = bound.handle
        if bound.state_origin == pb.Welcome.LOST:
            lost = next(id for id, h in self._handles.items() if h == handle)
            raise StateLost(f"the server has lost the state of stream {lost!r}")
        self._unbound.discard(handle)
        self._servers[handle] = bound.next_seq
        self._sent.confirm(np.array([handle], np.uint32), np.array([bound.durable_seq], np.uint64))
        self._next[handle] = max(self._next[handle], np.uint64(bound.next_seq))

    def _take_losses(self, handles: set[int]) -> None:
        for wave in self._sent.waves:
            wave.taken_over(handles)
        for id in [id for id, handle in self._handles.items() if handle in handles]:
            del self._handles[id]  # stepped again, it is bound, and taken over, again
        self._unbound -= handles


def _longer(column: Any, size: int) -> Any:
    out = np.zeros(size, column.dtype)
    out[: len(column)] = column
    return out


def _occurrence(handle: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """(n,) how many times the handle occurs before."""
    order = np.argsort(handle, kind="stable")
    ranked = handle[order]
    first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])) if len(handle) else np.zeros(0, np.intp)
    out = np.empty(len(handle), np.uint64)
    out[order] = np.arange(len(handle)) - np.repeat(first, np.diff(np.append(first, len(handle))))
    return out
