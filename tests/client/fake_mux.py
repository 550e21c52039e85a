"""A server of packed ticks over real gRPC, which numbers, refuses and forgets as the real one does when a test says so.

It forecasts what it was sent. What it holds is in `streams`; knobs are attributes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from freshet.v1 import models_pb2, models_pb2_grpc, streams_pb2_grpc, types_pb2
from freshet.v1 import streams_pb2 as pb

Out = asyncio.Queue["pb.MuxResponse | None"]


@dataclass
class Kept:
    """One stream: its ticks' values, of which so many are on disk."""

    rows: list[float] = field(default_factory=list)
    durable: int = 0
    origin: pb.Welcome.StateOrigin.ValueType = pb.Welcome.RESUMED


class FakeMux(streams_pb2_grpc.StreamsServicer):
    def __init__(self) -> None:
        self.streams: dict[str, Kept] = {}
        self.calls: list[list[str]] = []  # the streams that each call asked for
        self.asked = asyncio.Condition()  # notified at each call, and when it asks for streams
        self.heard = asyncio.Condition()  # notified after each message
        self.port = 0
        # Knobs.
        self.binding = asyncio.Event()  # cleared: it binds nothing yet
        self.answering = asyncio.Event()  # cleared: it answers no tick yet
        self.reading = asyncio.Event()  # cleared: it reads no message
        for event in (self.binding, self.answering, self.reading):
            event.set()
        self.end = asyncio.Event()  # set: ends the open call
        self.code = grpc.StatusCode.UNAVAILABLE  # with which it ends
        self.committing = True  # what is answered is on disk
        self.unbindable: set[str] = set()
        self.silent: set[str] = set()  # streams whose ticks are taken and not answered
        self.places: dict[str, str] = {}  # streams that are on another node, with its address
        self.interceptors: list[grpc.aio.ServerInterceptor] = []
        self._outs: list[Out] = []
        self._bound: dict[int, tuple[Out, dict[int, str]]] = {}  # by call: its handles
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server(interceptors=self.interceptors)
        streams_pb2_grpc.add_StreamsServicer_to_server(self, self._server)
        models_pb2_grpc.add_ModelsServicer_to_server(FakeModels(self), self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    # --- what tests do to it

    def leave(self) -> None:
        """Ask the clients to come back, and leave the call open."""
        for out in self._outs:
            out.put_nowait(pb.MuxResponse(reconnect=pb.Reconnect(reason="draining")))

    def send_away(self, address: str) -> None:
        """Ask the clients to come to another node, and end the calls."""
        for out in self._outs:
            out.put_nowait(pb.MuxResponse(reconnect=pb.Reconnect(reason="handed over", address=address)))
            out.put_nowait(None)

    def move(self, streams: Iterable[str], address: str) -> None:
        """Give these streams to another node, and say so in the open calls."""
        self.places |= dict.fromkeys(streams, address)
        for out, handles in self._bound.values():
            answer = pb.MuxResponse()
            for handle in [number for number, stream in handles.items() if stream in self.places]:
                answer.refused.append(self._elsewhere(handle, handles.pop(handle), 0))
            if answer.refused:
                out.put_nowait(answer)

    def restore(self, length: int) -> None:
        """Be as an earlier backup was, and end the open call."""
        for stream in self.streams.values():
            del stream.rows[length:]
            stream.durable = min(stream.durable, length)
        self.end.set()

    async def until(self, calls: int, streams: list[str]) -> None:
        """Wait until the call of this number has asked for just these."""
        async with self.asked:
            await self.asked.wait_for(lambda: len(self.calls) == calls and self.calls[-1] == streams)

    async def until_taken(self, stream: str, ticks: int) -> None:
        """Wait until the stream has so many ticks."""
        async with self.heard:
            await self.heard.wait_for(lambda: len(self.streams[stream].rows if stream in self.streams else ()) >= ticks)

    # --- services

    async def Mux(self, requests: Any, context: Any) -> AsyncIterator[pb.MuxResponse]:
        self.end.clear()
        out: Out = asyncio.Queue()
        asked: list[str] = []
        self.calls.append(asked)
        self._outs.append(out)
        async with self.asked:
            self.asked.notify_all()
        tasks = [asyncio.create_task(self._read(requests, asked, out)), asyncio.create_task(self._end(out))]
        try:
            while (answer := await out.get()) is not None:
                yield answer
            await context.abort(self.code, "ended by the test")
        finally:
            self._outs.remove(out)
            self._bound.pop(id(out), None)
            for task in tasks:
                task.cancel()

    async def _end(self, out: Out) -> None:
        await self.end.wait()
        out.put_nowait(None)

    async def _read(self, requests: Any, asked: list[str], out: Out) -> None:
        handles: dict[int, str] = {}
        ever: dict[int, str] = {}  # handles that were bound in this call
        self._bound[id(out)] = out, handles
        while True:
            await self.reading.wait()
            request = await anext(requests, None)
            if request is None:
                return
            asked += [bind.stream for bind in request.bind]
            async with self.asked:
                self.asked.notify_all()
            await self.binding.wait()
            if request.bind:
                out.put_nowait(self._bind(request.bind, handles))
                ever |= handles
            answer = self._ticks(request.ticks, handles, ever)
            async with self.heard:
                self.heard.notify_all()
            if answer is not None:
                await self.answering.wait()
                out.put_nowait(answer)

    def _bind(self, binds: Any, handles: dict[int, str]) -> pb.MuxResponse:
        answer = pb.MuxResponse()
        for bind in binds:
            assert bind.handle not in handles, "a handle was given twice"
            if bind.stream in self.unbindable:
                r = types_pb2.Refused(
                    field="bind.stream", value=bind.stream, remedy="another", reason=types_pb2.Refused.INVALID
                )
                answer.refused.add(handle=bind.handle, refused=r)
                continue
            if bind.stream in self.places:
                answer.refused.append(self._elsewhere(bind.handle, bind.stream, 0))
                continue
            handles[bind.handle] = bind.stream
            kept = self.streams.setdefault(bind.stream, Kept())
            answer.bound.add(
                handle=bind.handle, next_seq=len(kept.rows) + 1, durable_seq=kept.durable, state_origin=kept.origin
            )
        return answer

    def _elsewhere(self, handle: int, stream: str, seq: int) -> pb.HandleRefused:
        moved = types_pb2.Refused.MOVED
        r = types_pb2.Refused(seq=seq, field="stream", value=stream, remedy="bind it there", reason=moved)
        return pb.HandleRefused(handle=handle, refused=r, address=self.places[stream])

    def _ticks(self, columns: pb.Columns, handles: dict[int, str], ever: dict[int, str]) -> pb.MuxResponse | None:
        handle, seq = np.frombuffer(columns.handle, "<u4"), np.frombuffer(columns.seq, "<u8")
        x = np.frombuffer(columns.x, "<f4")
        answer, taken = pb.MuxResponse(), []
        for i, (number, at) in enumerate(zip(handle.tolist(), seq.tolist(), strict=True)):
            if number not in handles:
                answer.refused.append(self._elsewhere(number, ever[number], at))
                continue
            kept = self.streams[handles[number]]
            if (reason := self._refusal(kept, at, float(x[i]))) is not None:
                r = types_pb2.Refused(seq=at, field="seq", value=str(at), remedy="another", reason=reason)
                answer.refused.add(handle=number, refused=r)
                continue
            if at == len(kept.rows) + 1:
                kept.rows.append(float(x[i]))
                kept.origin = pb.Welcome.RESUMED
            kept.durable = max(kept.durable, at * self.committing)
            if handles[number] not in self.silent:
                taken.append(i)
        if taken:
            part = {"handle": handle[taken].tobytes(), "seq": seq[taken].tobytes()}
            answer.forecasts.CopyFrom(
                pb.Forecasts(**part, y=x[taken].tobytes(), judged_through=bytes(8 * len(taken)), version=1)
            )
            if self.committing:
                answer.durable.CopyFrom(pb.DurableColumns(**part))
        return answer if len(handle) else None

    @staticmethod
    def _refusal(kept: Kept, seq: int, value: float) -> types_pb2.Refused.Reason.ValueType | None:
        if seq > len(kept.rows) + 1:
            return types_pb2.Refused.GAP
        if seq <= len(kept.rows) and not np.array_equal(kept.rows[seq - 1], value, equal_nan=True):
            return types_pb2.Refused.CONFLICT
        return None


class FakeModels(models_pb2_grpc.ModelsServicer):
    """The one model of a FakeMux."""

    def __init__(self, fake: FakeMux) -> None:
        self._fake = fake

    async def Get(self, request: models_pb2.GetModelRequest, context: Any) -> models_pb2.Model:
        await self._fake.reading.wait()
        return models_pb2.Model(name="m", spec=types_pb2.ModelSpec(channels=["x"], horizon=1))
