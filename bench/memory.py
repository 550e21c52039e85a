"""Measure the server's memory per idle stream: 100,000 streams that have ticked, in memory and after their eviction.

The figure is the resident memory of the server's process without its trainer. It includes everything that grows with
the streams: states, columns, ids, the handles of the one call that bound them, and the model's log of answers.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from bench.report import Row, finish, parser
from freshet.v1 import models_pb2, models_pb2_grpc, streams_pb2, streams_pb2_grpc, types_pb2
from model.network import Network
from model.spec import ModelSpec
from service.programs.backtest.child import ServerChild

BIND_AT_ONCE = 10_000
TICKS_AT_ONCE = 10_000
IDLE_S, SNAPSHOT_S = 15.0, 2.0
DEADLINE_S = 300.0
HIDDEN = 32


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


async def metric(http: str, name: str) -> float:
    """Return the value of a metric, of the one model if it has a model label."""
    reader, writer = await asyncio.open_connection(*http.split(":"))
    writer.write(f"GET /metrics HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n".encode())
    text = (await reader.read()).decode()
    writer.close()
    found = re.search(rf'^{name}(?:{{[^}}]*model="m"[^}}]*}})? (\S+)$', text, re.M)
    return float(found[1]) if found else 0.0


async def tick_all(call: Any, streams: int, seq: int, rng: np.random.Generator) -> None:
    """Send one tick of every stream, and read all forecasts."""
    for first in range(0, streams, TICKS_AT_ONCE):
        handles = np.arange(first, min(first + TICKS_AT_ONCE, streams), dtype="<u4")
        columns = streams_pb2.Columns(
            handle=handles.tobytes(), seq=np.full(len(handles), seq, "<u8").tobytes(),
            x=rng.standard_normal(len(handles)).astype("<f4").tobytes(),
        )  # fmt: skip
        await call.write(streams_pb2.MuxRequest(ticks=columns))
        while not (response := await call.read()).HasField("forecasts"):
            if response.refused:
                raise RuntimeError(f"refused: {response.refused[0]}")


async def create_model(channel: Any, learn: bool) -> None:
    """Create the one model."""
    spec = types_pb2.ModelSpec(channels=["v"], hidden=HIDDEN, learn=learn)
    await models_pb2_grpc.ModelsStub(channel).Create(models_pb2.CreateModelRequest(name="m", spec=spec))


async def bind_all(channel: Any, streams: int) -> Any:
    """Open a call of Mux with `streams` streams of the model."""
    call = streams_pb2_grpc.StreamsStub(channel).Mux()
    for first in range(0, streams, BIND_AT_ONCE):
        last = min(first + BIND_AT_ONCE, streams)
        bind = [streams_pb2.Bind(handle=i, stream=f"meter-{i:08}") for i in range(first, last)]
        await call.write(streams_pb2.MuxRequest(model="" if first else "m", bind=bind))
        while not (await call.read()).bound:
            pass
    return call


async def measure(streams: int) -> list[Row]:
    """Return the rows of one run."""
    state = 4 * Network(ModelSpec(channels=("v",), hidden=HIDDEN)).state_size
    with tempfile.TemporaryDirectory() as folder:
        settings = {"idle_s": IDLE_S, "snapshot_s": SNAPSHOT_S, "max_resident": 2 * streams}
        async with (
            ServerChild(Path(folder) / "data", Path(folder) / "log", settings=settings) as child,
            grpc.aio.insecure_channel(child.grpc, options=[("grpc.max_receive_message_length", 64 << 20)]) as channel,
        ):
            await create_model(channel, learn=False)
            before, rng = resident_bytes(child.pid), np.random.default_rng(0)
            call = await bind_all(channel, streams)
            for seq in (1, 2):
                await tick_all(call, streams, seq, rng)
            reading = asyncio.create_task(drain(call))
            async with asyncio.timeout(DEADLINE_S):
                seen = await metric(child.http, "freshet_snapshot_seconds_count")
                while await metric(child.http, "freshet_snapshot_seconds_count") < seen + 2:  # all is saved
                    await asyncio.sleep(0.2)
                assert await metric(child.http, "freshet_streams_resident") == streams
                here = resident_bytes(child.pid)
                while await metric(child.http, "freshet_streams_resident"):
                    await asyncio.sleep(1.0)
            gone = resident_bytes(child.pid)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            call.cancel()
    case = f"{streams} streams, H={HIDDEN}"
    return [
        Row(case, "state of a stream", state, "B"),
        Row(case, "in memory, per stream", (here - before) / streams, "B", asked=2 * state + 400),
        Row(case, "idle, left memory, per stream", (gone - before) / streams, "B"),
    ]


async def drain(call: Any) -> None:
    """Read the call's messages until it ends."""
    while await call.read() is not grpc.aio.EOF:
        pass


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows; return 1 if one exceeds its bound."""
    options = parser(__doc__)
    options.add_argument("--streams", type=int, default=100_000)
    arguments = options.parse_args(argv)
    return finish(asyncio.run(measure(arguments.streams)), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
