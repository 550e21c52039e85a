"""Measure the server's CPU per message for single ticks, against a bare grpc.aio echo, and for packed ticks.

Both servers run as child processes and take turns; the client does the same work for both. The model does not learn,
because learning runs in another process, whose CPU is not the server's. Packed: Streams.Mux with 1,024 streams, one
tick of each per message; forecasts per second are per core, with all threads of the server counted.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from argparse import SUPPRESS
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np

from bench.report import Row, finish, parser
from freshet.v1 import models_pb2, models_pb2_grpc, streams_pb2, streams_pb2_grpc, types_pb2
from service.programs.backtest.child import ServerChild

ROUNDS = 10
MESSAGES = 1000
UNDURABLE = 200
PACKED_STREAMS, PACKED_MESSAGES, PACKED_WARM, PACKED_ROUNDS, PACKED_IN_FLIGHT = 1024, 200, 50, 7, 4


class Echo(streams_pb2_grpc.StreamsServicer):
    """Read a request and write a response of the same size. It shows the cost of grpc.aio itself."""

    async def Open(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # grpc.aio also serves with read and write
        """Echo seq and values until half-close."""
        while (request := await context.read()) is not grpc.aio.EOF:
            tick = request.tick
            forecast = streams_pb2.Forecast(seq=tick.seq, y=tick.x)
            await context.write(streams_pb2.OpenResponse(forecast=forecast))


async def echo() -> None:
    """Run the echo server: print its port, and serve until standard input closes."""
    server = grpc.aio.server()
    streams_pb2_grpc.add_StreamsServicer_to_server(Echo(), server)  # type: ignore[abstract]  # nothing else is called
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(0)


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process's living threads, user and system. Exact to 1 ns."""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


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
            on_disk = response.durable.seq - first_seq + 1
        elif kind != "forecast":
            raise RuntimeError(f"unexpected answer: {response}")
        else:
            answered += 1


async def measure(in_flight: int) -> tuple[float, float, float]:
    """Return the median CPU seconds per message of freshet and of the echo, and the median of their ratio per round."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        async with ServerChild(Path(folder) / "data", log) as child:
            bare = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bench.edge", "--echo",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert bare.stdout
            assert bare.stdin
            port = int(await bare.stdout.readline())
            async with (
                grpc.aio.insecure_channel(child.grpc) as ours,
                grpc.aio.insecure_channel(f"127.0.0.1:{port}") as base,
            ):
                spec = types_pb2.ModelSpec(channels=["v"], hidden=32, learn=False)
                await models_pb2_grpc.ModelsStub(ours).Create(models_pb2.CreateModelRequest(name="m", spec=spec))
                call = streams_pb2_grpc.StreamsStub(ours).Open()
                await call.write(streams_pb2.OpenRequest(hello=streams_pb2.Hello(model="m", stream="s")))
                await call.read()
                plain = streams_pb2_grpc.StreamsStub(base).Open()
                per: list[tuple[float, float]] = []
                for r in range(ROUNDS + 1):
                    costs = {}
                    turns = ((call, child.pid), (plain, bare.pid))
                    for target, pid in turns if r % 2 else turns[::-1]:
                        before = cpu_s(pid)
                        await drive(target, r * MESSAGES + 1, MESSAGES, in_flight, durable=target is call)
                        costs[target] = (cpu_s(pid) - before) / MESSAGES
                    if r:  # the first round warms up
                        per.append((costs[call], costs[plain]))
                await call.done_writing()
                await plain.done_writing()
            bare.stdin.close()
            await bare.wait()
    return median(a for a, _ in per), median(b for _, b in per), median(a / b for a, b in per)


async def packed(streams: int) -> tuple[float, float]:
    """Return forecasts per second of server CPU and of wall time, for packed messages with one tick per stream."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            ServerChild(Path(folder) / "data", Path(folder) / "log") as child,
            grpc.aio.insecure_channel(child.grpc, options=[("grpc.max_receive_message_length", 64 << 20)]) as channel,
        ):
            spec = types_pb2.ModelSpec(channels=["v"], hidden=32, learn=False)
            await models_pb2_grpc.ModelsStub(channel).Create(models_pb2.CreateModelRequest(name="m", spec=spec))
            call = streams_pb2_grpc.StreamsStub(channel).Mux()
            bind = [streams_pb2.Bind(handle=i, stream=f"s{i}") for i in range(streams)]
            await call.write(streams_pb2.MuxRequest(model="m", bind=bind))
            await call.read()
            await drive_packed(call, streams, 1, PACKED_WARM)
            rates = []
            for r in range(PACKED_ROUNDS):
                cpu, wall = cpu_s(child.pid), time.perf_counter()
                await drive_packed(call, streams, 1 + PACKED_WARM + r * PACKED_MESSAGES, PACKED_MESSAGES)
                n = streams * PACKED_MESSAGES
                rates.append((n / (cpu_s(child.pid) - cpu), n / (time.perf_counter() - wall)))
            await call.done_writing()
    return median(cpu for cpu, _ in rates), median(wall for _, wall in rates)


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows; return 1 if a ratio exceeds its bound."""
    options = parser(__doc__)
    options.add_argument("--echo", action="store_true", help=SUPPRESS)
    arguments = options.parse_args(argv)
    if arguments.echo:
        asyncio.run(echo())
        return 0
    rows = []
    for in_flight in (1,):
        ours, bare, ratio = asyncio.run(measure(in_flight))
        case = f"{in_flight} in flight, H=32"
        rows += [
            Row(case, "server CPU per message", ours, "s"),
            Row(case, "bare echo CPU per message", bare, "s"),
            Row(case, "server over echo", ratio, "ratio", asked=1.6),
        ]
    per_core, by_wall = asyncio.run(packed(PACKED_STREAMS))
    case = f"packed, {PACKED_STREAMS} streams a message, H=32"
    rows += [
        Row(case, "forecasts per second of one core", per_core, "1/s", asked=300_000, better="higher"),
        Row(case, "forecasts per second, one client", by_wall, "1/s"),
    ]
    return finish(rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
