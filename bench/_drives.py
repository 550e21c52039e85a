"""Open and drive calls of a server: ticks one by one, several of one stream in a message, or one of each of many."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np

from freshet.v1 import streams_pb2, streams_pb2_grpc

ROUNDS, MESSAGES = 10, 1000  # of single ticks beside an echo
UNDURABLE = 200  # ticks of one stream that may wait for the disk
TOGETHER = 16  # ticks of one message
PACKED_STREAMS, PACKED_IN_FLIGHT = 1024, 4


async def opened(channel: grpc.aio.Channel, model: str, stream: str = "s") -> Any:
    """Return a call of Streams.Open with its stream welcomed, as the SDK opens it."""
    call: Any = streams_pb2_grpc.StreamsStub(channel).Open()
    hello = streams_pb2.Hello(model=model, stream=stream, durable_in_forecasts=True)
    await call.write(streams_pb2.OpenRequest(hello=hello))
    await call.read()
    return call


async def drive(call: Any, first_seq: int, n: int, in_flight: int, durable: bool) -> None:
    """Send n ticks, at most `in_flight` of them unanswered and, if the server reports it, UNDURABLE not durable."""
    sent = answered = 0
    on_disk = 0 if durable else n
    values = np.random.default_rng(first_seq).standard_normal((n, 1)).astype(np.float32)
    while answered < n:
        while sent < n and sent - answered < in_flight and sent - on_disk < UNDURABLE:
            tick = streams_pb2.Tick(seq=first_seq + sent, x=values[sent])
            await call.write(streams_pb2.OpenRequest(tick=tick))
            sent += 1
        response = await call.read()
        kind = response.WhichOneof("message")
        if kind == "durable":
            on_disk = max(on_disk, response.durable.seq - first_seq + 1)
        elif kind != "forecast":
            raise RuntimeError(f"unexpected answer: {response}")
        else:
            answered += 1
            on_disk = max(on_disk, response.forecast.durable_seq - first_seq + 1)


async def drive_together(call: Any, first_seq: int, n: int) -> None:
    """Send n ticks, TOGETHER in a message, one message unanswered and UNDURABLE ticks not on disk."""
    x = np.random.default_rng(first_seq).standard_normal(n).cumsum().astype("<f4")
    done, on_disk = 0, first_seq - 1
    while done < n:
        part = x[done : done + TOGETHER]
        last = first_seq + done + len(part) - 1
        if last - on_disk > UNDURABLE:
            await call.write(streams_pb2.OpenRequest(expect=streams_pb2.Expect(durable_seq=last - UNDURABLE)))
        while last - on_disk > UNDURABLE:
            on_disk = max(on_disk, (await call.read()).durable.seq)
        ticks = streams_pb2.Ticks(first_seq=first_seq + done, count=len(part), x=part.tobytes())
        await call.write(streams_pb2.OpenRequest(ticks=ticks))
        while not (response := await call.read()).HasField("outcomes"):
            on_disk = max(on_disk, response.durable.seq)
        if response.outcomes.refused:
            raise RuntimeError(f"refused: {response.outcomes.refused[0]}")
        on_disk = max(on_disk, response.outcomes.durable_seq)
        done += len(part)


async def drive_packed(call: Any, streams: int, first_seq: int, messages: int) -> None:
    """Send messages with one tick per stream, PACKED_IN_FLIGHT at once, and read all forecasts."""
    handle = np.arange(streams, dtype="<u4").tobytes()
    x = np.random.default_rng(first_seq).standard_normal((messages, streams)).cumsum(axis=0).astype("<f4")
    sent = answered = 0
    while answered < messages:
        while sent < messages and sent - answered < PACKED_IN_FLIGHT:
            seq = np.full(streams, first_seq + sent, "<u8").tobytes()
            columns = streams_pb2.Columns(handle=handle, seq=seq, x=x[sent].tobytes())
            await call.write(streams_pb2.MuxRequest(ticks=columns))
            sent += 1
        response = await call.read()
        if response.refused:
            raise RuntimeError(f"refused: {response.refused[0]}")
        answered += response.HasField("forecasts")
