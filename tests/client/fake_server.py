"""A server that speaks the step protocol over real gRPC and forecasts by a formula that tests can repeat.

Its state is 0.5·state + x, from zeros; the forecast for step h is h·state. What it holds beyond `durable` is lost in
`crash`. Knobs are attributes; everything it saw is recorded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from freshet.v1 import models_pb2, models_pb2_grpc, types_pb2
from freshet.v1 import streams_pb2 as pb
from freshet.v1 import streams_pb2_grpc as pb_grpc

Array = npt.NDArray[np.float32]
Ended = tuple[grpc.StatusCode, str] | tuple[grpc.StatusCode, str, Any]  # the third: trailing metadata


def fold(state: Array, row: object, horizon: int) -> tuple[Array, Array]:
    """One step: the next state, (channels,), and the forecast, (horizon, channels)."""
    state = np.float32(0.5) * state + np.atleast_1d(np.asarray(row, np.float32))
    return state, np.stack([np.float32(h) * state for h in range(1, horizon + 1)])


def oracle(rows: Iterable[object], horizon: int = 1, resets: Iterable[int] = ()) -> list[Array]:
    """The forecasts of an unbroken run. resets: seqs before which the state begins anew."""
    forecasts, state = [], np.zeros(1, np.float32)
    for seq, row in enumerate(rows, 1):
        state, y = fold(np.zeros_like(state) if seq in resets else state, row, horizon)
        forecasts.append(y)
    return forecasts


@dataclass
class FakeStream:
    ticks: list[pb.Tick] = field(default_factory=list)
    states: list[Array] = field(default_factory=list)  # after each tick
    answers: list[Array] = field(default_factory=list)
    resets: set[int] = field(default_factory=set)
    durable: int = 0
    judged: int = 0
    origin: pb.Welcome.StateOrigin.ValueType = pb.Welcome.FRESH
    call: FakeCall | None = None

    def take(self, tick: pb.Tick, horizon: int) -> None:
        fresh = not self.ticks or len(self.ticks) + 1 in self.resets
        state, y = fold(np.zeros(1, np.float32) if fresh else self.states[-1], tick.x, horizon)
        self.ticks.append(tick)
        self.states.append(state)
        self.answers.append(y)

    @property
    def last_time(self) -> float | None:
        times = [t.time for t in self.ticks[max(self.resets, default=1) - 1 :] if t.HasField("time")]
        return times[-1] if times else None

    def cut(self, length: int) -> None:
        """Forget what came after."""
        del self.ticks[length:], self.states[length:], self.answers[length:]
        self.resets = {at for at in self.resets if at <= length}


@dataclass
class FakeCall:
    """One Open: what it will be sent, ended by a status."""

    mute: bool = False
    labels: int = 0
    spares: bool = False  # progress comes with forecasts
    out: asyncio.Queue[pb.OpenResponse | Ended] = field(default_factory=asyncio.Queue)

    def send(self, **message: Any) -> None:
        self.out.put_nowait(pb.OpenResponse(**message))

    def end(self, code: grpc.StatusCode, why: str = "", *metadata: Any) -> None:
        self.out.put_nowait((code, why, *metadata))


class FakeServer(pb_grpc.StreamsServicer):
    def __init__(self, channels: int = 1, horizon: int = 1, interval: float = 0.0, learn: bool = True) -> None:
        names = [f"c{number}" for number in range(channels)]
        self.spec = types_pb2.ModelSpec(
            channels=names, targets=names, horizon=horizon, interval=interval, learn=learn, max_gap=0.0
        )
        self.streams: dict[str, FakeStream] = {}
        self.models: dict[str, models_pb2.Model] = {"m": models_pb2.Model(name="m", spec=self.spec)}
        self.events: asyncio.Queue[models_pb2.ModelEvent] = asyncio.Queue()
        self.received: list[pb.Tick] = []  # every Tick of every call
        self.together: list[int] = []  # numbers of ticks of every message of several
        self.labels: list[tuple[int, list[float]]] = []  # every Label of every call
        self.expected: list[tuple[int, int]] = []  # every Expect of every call
        self.hellos = 0
        self.judged_when_received: dict[int, int] = {}
        # Knobs.
        self.max_undurable = 256
        self.ring = 256  # answers kept
        self.commit_every: int | None = 1  # None: only by `commit`, or after a half-close
        self.disk = asyncio.Event()  # cleared: a half-closed call waits
        self.disk.set()
        self.judge_every = 1  # labels are judged in groups of so many, at a commit
        self.welcoming = asyncio.Event()  # cleared: no Hello is answered, nor a plain call
        self.welcoming.set()
        self.max_ticks = 0  # in one message; 0: an earlier server, which does not know Ticks
        self.spares = False  # it knows Hello.durable_in_forecasts, and then sends Durable alone only when expected
        self.mute = False  # calls opened now take ticks and answer nothing
        self.overloaded = False
        self.refuse: Callable[[pb.Tick], types_pb2.Refused | None] = lambda tick: None
        self.on_tick: Callable[[pb.Tick], None] = lambda tick: None  # after it was taken, before it is answered
        self.hello_status: Ended | None = None
        self.port = 0
        self.credentials: grpc.ServerCredentials | None = None
        self.interceptors: list[grpc.aio.ServerInterceptor] = []
        self._server: grpc.aio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- life

    async def start(self) -> None:
        often = [("grpc.http2.min_ping_interval_without_data_ms", 10)]  # a client may ask whether it is there
        self._server = grpc.aio.server(options=often, interceptors=self.interceptors)
        self.serve(self._server)
        address = f"127.0.0.1:{self.port}"
        if self.credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, self.credentials)
        await self._server.start()

    def serve(self, server: grpc.aio.Server) -> None:
        """Add the services."""
        pb_grpc.add_StreamsServicer_to_server(self, server)
        models_pb2_grpc.add_ModelsServicer_to_server(FakeModels(self), server)

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    async def crash(self, keep: int = 0) -> None:
        """Die, forgetting every tick beyond max(durable, keep), and start again on the same port."""
        await self.stop()
        for stream in self.streams.values():
            stream.cut(max(stream.durable, keep))
            stream.judged = min(stream.judged, stream.durable)
            stream.origin, stream.call = pb.Welcome.RESUMED, None
        await self.start()

    def soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside the servicer: a call cannot await the end of its own server."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- what tests do to it

    def commit(self) -> None:
        """Everything taken reaches the disk; whole groups of labels are judged."""
        for stream in self.streams.values():
            stream.durable = len(stream.ticks)
            stream.judged = max(stream.judged, stream.durable // self.judge_every * self.judge_every)
            if stream.call is not None and not (stream.call.spares and not self.expected and not stream.call.labels):
                durable = pb.Durable(seq=stream.durable, judged_through=stream.judged, labels=stream.call.labels)
                stream.call.send(durable=durable)

    def reconnect(self) -> None:
        """Ask every client to come back, as when draining."""
        for stream in self.streams.values():
            if stream.call is not None:
                stream.call.send(reconnect=pb.Reconnect(reason="draining"))
                stream.call.end(grpc.StatusCode.OK)
                stream.call = None

    def rows(self, stream: str = "s") -> list[list[float]]:
        return [list(tick.x) for tick in self.streams[stream].ticks]

    # --- Streams

    async def Open(
        self, requests: AsyncIterator[pb.OpenRequest], context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[pb.OpenResponse]:
        hello = (await anext(requests)).hello
        self.hellos += 1
        await self.welcoming.wait()
        if self.hello_status is not None:
            await context.abort(*self.hello_status)
        if hello.model not in self.models:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no model {hello.model!r}")
        if not hello.stream:
            await context.abort_with_status(_bad_field("stream", "", "1 to 256 printable characters"))
        call, stream = self._attach(hello)
        reader = asyncio.create_task(self._read(requests, stream, call))
        try:
            while isinstance(item := await call.out.get(), pb.OpenResponse):
                yield item
            if item[0] is not grpc.StatusCode.OK:
                await context.abort(*item)
        finally:
            reader.cancel()
            if stream.call is call:
                stream.call = None

    def _attach(self, hello: pb.Hello) -> tuple[FakeCall, FakeStream]:
        stream = self.streams.setdefault(hello.stream, FakeStream())
        call, old = FakeCall(self.mute, spares=self.spares and hello.durable_in_forecasts), stream.call
        if old is not None:
            old.send(taken_over=pb.TakenOver(by="another call"))
            old.end(grpc.StatusCode.ABORTED, "taken over")
        stream.call = call
        call.send(
            welcome=pb.Welcome(
                stream_id=hello.stream,
                next_seq=len(stream.ticks) + 1,
                durable_seq=stream.durable,
                state_origin=stream.origin,
                version=1,
                spec=self.spec,
                judged_through=stream.judged,
                max_undurable=self.max_undurable,
                last_time=stream.last_time,
                durable_in_forecasts=call.spares,
                max_ticks=self.max_ticks,
            )
        )
        stream.origin = pb.Welcome.RESUMED
        return call, stream

    async def _read(self, requests: AsyncIterator[pb.OpenRequest], stream: FakeStream, call: FakeCall) -> None:
        async for request in requests:
            if stream.call is not call:
                return
            if request.HasField("reset"):
                stream.resets.add(len(stream.ticks) + 1)
            elif request.HasField("label"):
                call.labels += 1
                self.labels.append((request.label.seq, list(request.label.y)))
                if self.commit_every:
                    self.commit()
            elif request.HasField("expect"):
                assert call.spares, "a server that does not know Expect ends the call"
                self.expected.append((request.expect.durable_seq, request.expect.judged_through))
                if self.commit_every:
                    self.commit()
            elif request.HasField("tick"):
                self._tick(request.tick, stream, call)
            elif request.HasField("ticks"):
                self._ticks(request.ticks, stream, call)
        if self._server is None:  # not half-closed, dead
            return
        await self.disk.wait()  # half-closed: all on disk first
        self.commit()
        call.end(grpc.StatusCode.OK)

    def _tick(self, tick: pb.Tick, stream: FakeStream, call: FakeCall) -> None:
        self.received.append(tick)
        self.judged_when_received[tick.seq] = stream.judged
        refused = self._refusal(tick, stream)
        if refused is not None:
            call.send(refused=refused)
            return
        if tick.seq == len(stream.ticks) + 1:
            stream.take(tick, self.spec.horizon)
            self.on_tick(tick)
        if not call.mute:
            y = stream.answers[tick.seq - 1].ravel().tolist()
            durable = stream.durable if call.spares else 0
            forecast = pb.Forecast(seq=tick.seq, y=y, version=1, judged_through=stream.judged, durable_seq=durable)
            call.send(forecast=forecast)
        if self.commit_every and len(stream.ticks) - stream.durable >= self.commit_every:
            self.commit()

    def _ticks(self, message: pb.Ticks, stream: FakeStream, call: FakeCall) -> None:
        """Each as if it had come alone; Durable may come before the outcomes."""
        assert 1 <= message.count <= self.max_ticks
        self.together.append(message.count)
        x = np.frombuffer(message.x, "<f4").reshape(message.count, -1)
        time = np.frombuffer(message.time, "<f8") if message.time else np.full(message.count, np.nan)
        gathered = FakeCall(call.mute, spares=call.spares)
        for i in range(message.count):
            at = None if np.isnan(time[i]) else float(time[i])
            self._tick(pb.Tick(seq=message.first_seq + i, x=x[i], time=at), stream, gathered)
        each = [gathered.out.get_nowait() for _ in range(gathered.out.qsize())]
        made = [one.forecast for one in each if isinstance(one, pb.OpenResponse) and one.HasField("forecast")]
        refused = [one.refused for one in each if isinstance(one, pb.OpenResponse) and one.HasField("refused")]
        outcomes = pb.Outcomes(
            first_seq=message.first_seq,
            count=message.count,
            y=np.array([f.y for f in made], "<f4").tobytes(),
            version=np.array([f.version for f in made], "<u8").tobytes(),
            judged_through=np.array([f.judged_through for f in made], "<u8").tobytes(),
            refused=refused,
            durable_seq=max((f.durable_seq for f in made), default=0),
        )
        if not call.mute:
            call.send(outcomes=outcomes)

    def _refusal(self, tick: pb.Tick, stream: FakeStream) -> types_pb2.Refused | None:
        last = len(stream.ticks)
        reason = None
        if tick.seq > last + 1:
            reason = types_pb2.Refused.GAP
        elif tick.seq <= last and tick != stream.ticks[tick.seq - 1]:
            reason = types_pb2.Refused.CONFLICT
        elif tick.seq <= last - self.ring:
            reason = types_pb2.Refused.ANSWER_LOST
        elif tick.seq == last + 1 and (self.overloaded or last + 1 > stream.durable + self.max_undurable):
            reason = types_pb2.Refused.OVERLOADED
        elif tick.seq == last + 1:
            return self.refuse(tick)
        if reason is None:
            return None
        return types_pb2.Refused(
            seq=tick.seq, field="seq", value=str(tick.seq), remedy=f"send {last + 1}", reason=reason
        )


class FakeModels(models_pb2_grpc.ModelsServicer):
    """The models of a fake server."""

    def __init__(self, fake: FakeServer) -> None:
        self._fake = fake

    async def Create(self, request: models_pb2.CreateModelRequest, context: Any) -> models_pb2.Model:
        if not request.name:
            await context.abort_with_status(_bad_field("name", "''", "1 to 64 of a-z, 0-9, '-', '_'"))
        known = self._fake.models.setdefault(request.name, models_pb2.Model(name=request.name, spec=request.spec))
        if known.spec != request.spec:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, f"{request.name} has another spec")
        return known

    async def Get(self, request: models_pb2.GetModelRequest, context: Any) -> models_pb2.Model:
        await self._fake.welcoming.wait()
        if request.name not in self._fake.models:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.name!r}")
        return self._fake.models[request.name]

    async def List(self, request: models_pb2.ListModelsRequest, context: Any) -> models_pb2.ListModelsResponse:
        return models_pb2.ListModelsResponse(models=self._fake.models.values())

    async def Versions(self, request: models_pb2.VersionsRequest, context: Any) -> models_pb2.VersionsResponse:
        return models_pb2.VersionsResponse(versions=[models_pb2.Version(number=n) for n in (2, 1)])

    async def Export(self, request: models_pb2.ExportRequest, context: Any) -> models_pb2.ExportResponse:
        version = models_pb2.Version(number=request.version or 2)
        return models_pb2.ExportResponse(version=version, onnx=b"onnx", weights=b"weights")

    async def Watch(self, request: models_pb2.WatchRequest, context: Any) -> AsyncIterator[models_pb2.ModelEvent]:
        await self._fake.welcoming.wait()
        while True:
            yield await self._fake.events.get()


def _bad_field(name: str, value: str, remedy: str) -> Any:
    """INVALID_ARGUMENT with the details that name field, value and remedy."""
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field=name, description=remedy)
    details = [any_pb2.Any(), any_pb2.Any()]
    details[0].Pack(bad)
    details[1].Pack(error_details_pb2.ErrorInfo(reason="INVALID", domain="freshet", metadata={"value": value}))
    text = f"{name} = {value}; {remedy}"
    return rpc_status.to_status(status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=text, details=details))
