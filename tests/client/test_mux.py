"""Packed ticks against a server that binds and answers when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest

import freshet
from freshet.v1 import models_pb2, models_pb2_grpc, streams_pb2_grpc, types_pb2
from freshet.v1 import streams_pb2 as pb


class FakeMux(streams_pb2_grpc.StreamsServicer, models_pb2_grpc.ModelsServicer):
    """Forecasts what it was sent. `binding` cleared: it binds nothing yet; `end` ends the open call."""

    def __init__(self) -> None:
        self.binding = asyncio.Event()
        self.binding.set()
        self.end = asyncio.Event()
        self.calls: list[list[str]] = []  # the streams that each call asked for
        self.asked = asyncio.Condition()
        self.next: dict[str, int] = {}  # by stream

    async def Get(self, request: models_pb2.GetModelRequest, context: Any) -> models_pb2.Model:
        return models_pb2.Model(name="m", spec=types_pb2.ModelSpec(channels=["x"], horizon=1))

    async def Mux(self, requests: Any, context: Any) -> AsyncIterator[pb.MuxResponse]:
        self.end.clear()
        out: asyncio.Queue[pb.MuxResponse | None] = asyncio.Queue()
        asked: list[str] = []
        self.calls.append(asked)
        tasks = [asyncio.create_task(self._read(requests, asked, out)), asyncio.create_task(self._end(out))]
        try:
            while (answer := await out.get()) is not None:
                yield answer
            await context.abort(grpc.StatusCode.UNAVAILABLE, "ended by the test")
        finally:
            for task in tasks:
                task.cancel()

    async def _end(self, out: Any) -> None:
        await self.end.wait()
        out.put_nowait(None)

    async def _read(self, requests: Any, asked: list[str], out: Any) -> None:
        streams: dict[int, str] = {}
        async for request in requests:
            for bind in request.bind:
                streams[bind.handle] = bind.stream
                asked.append(bind.stream)
            async with self.asked:
                self.asked.notify_all()
            await self.binding.wait()
            bound = [pb.Bound(handle=b.handle, next_seq=self.next.get(b.stream, 1)) for b in request.bind]
            out.put_nowait(pb.MuxResponse(bound=bound))
            handle, seqs = np.frombuffer(request.ticks.handle, "<u4"), np.frombuffer(request.ticks.seq, "<u8")
            for number, seq in zip(handle.tolist(), seqs.tolist(), strict=True):
                self.next[streams[number]] = seq + 1
            if len(handle):
                columns = request.ticks
                out.put_nowait(pb.MuxResponse(
                    forecasts=pb.Forecasts(handle=columns.handle, seq=columns.seq, y=columns.x,
                                           judged_through=bytes(8 * len(handle)), version=1),
                    durable=pb.DurableColumns(handle=columns.handle, seq=columns.seq),
                ))  # fmt: skip

    async def until(self, calls: int, streams: list[str]) -> None:
        """Wait until the call of this number has asked for just these."""
        async with self.asked:
            await self.asked.wait_for(lambda: len(self.calls) == calls and self.calls[-1] == streams)


@pytest.fixture
async def fake() -> AsyncIterator[FakeMux]:
    fake, server = FakeMux(), grpc.aio.server()
    streams_pb2_grpc.add_StreamsServicer_to_server(fake, server)
    models_pb2_grpc.add_ModelsServicer_to_server(fake, server)
    fake.port = server.add_insecure_port("127.0.0.1:0")  # type: ignore[attr-defined]
    await server.start()
    yield fake
    await server.stop(0)


@pytest.fixture
async def client(fake: FakeMux) -> AsyncIterator[freshet.Client]:
    async with freshet.connect(f"127.0.0.1:{fake.port}") as connected:  # type: ignore[attr-defined]
        yield connected


@pytest.mark.parametrize("turns", range(12))
async def test_a_first_step_finds_its_streams_bound_however_far_the_call_is_open(client, turns):
    """Once, streams that came while the call was being opened were never asked for."""
    async with client.mux("m") as mux:
        for _ in range(turns):
            await asyncio.sleep(0)  # one turn of the loop

        packed = await mux.step(["a", "b", "a"], [1.0, 2.0, 3.0])

        assert packed.y.ravel().tolist() == [1.0, 2.0, 3.0]
        assert packed.seq.tolist() == [1, 1, 2]


async def test_a_stream_that_comes_while_others_are_being_bound_again_is_asked_for(client, fake):
    async with client.mux("m") as mux:
        await mux.step(["a"], [1.0])
        fake.binding.clear()
        fake.end.set()
        await fake.until(2, ["a"])  # a new call, not bound yet

        step = asyncio.create_task(mux.step(["b", "a"], [5.0, 6.0]))
        await fake.until(2, ["a"])
        fake.binding.set()
        packed = await step

        assert fake.calls == [["a"], ["a", "b"]]
        assert (packed.y.ravel().tolist(), packed.seq.tolist()) == ([5.0, 6.0], [1, 2])


@pytest.mark.parametrize("turns", range(0, 60, 12))
async def test_a_step_of_several_messages_outlasts_the_end_of_a_call_at_any_moment(client, fake, monkeypatch, turns):
    monkeypatch.setattr("freshet.mux.MESSAGE_BYTES", 48)  # two ticks a message
    ids = [f"s{n}" for n in range(9)]
    async with client.mux("m", close_s=0.0) as mux:
        await mux.step(ids, np.zeros(9))
        step = asyncio.create_task(mux.step(ids, np.arange(9.0)))
        for _ in range(turns):
            await asyncio.sleep(0)
        fake.end.set()
        packed = await step

        assert packed.y.ravel().tolist() == list(range(9))
        assert not packed.refused


async def test_ids_rows_and_times_may_be_columns_of_a_frame(client, fake):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": ["a", "b"], "x": [1, None], "when": pandas.DatetimeIndex(["2024-01-01"] * 2)})
    async with client.mux("m") as mux:
        packed = await mux.step(frame["id"], frame[["x"]], frame["when"])
        np.testing.assert_array_equal(packed.y.ravel(), [1.0, np.nan])
        with pytest.raises(freshet.InvalidArgument, match="no column 'x' and 'when', which is no channel"):
            await mux.step(frame["id"], frame[["when"]])
