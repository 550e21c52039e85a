"""Measure the server's CPU per message for single ticks, against a bare grpc.aio echo, and for packed ticks.

Both servers run as child processes and take turns; the client does the same work for both. The model does not learn,
because learning runs in another process, whose CPU is not the server's. Beside the CPU: how often a thread waited for
another, and system calls, counted by strace in a turn of their own. The Python loop makes figures of two machines
comparable. `--where` samples stacks of the event loop, which costs a little itself. Packed: Streams.Mux with 1,024
streams, one tick of each per message; forecasts per second are per core, with all threads of the server counted.
Together: TOGETHER ticks of one stream in a message, the next one once it is answered, beside the echo of single ticks.
`--against TREE` takes turns with the server of another checkout.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench._costs import LOOPS, SHOWN, Thread, between, calibration_s, table, threads, traced
from bench._echo import MODEL, Target, create_model, other, pair
from bench._sampler import START, sampled
from bench.report import Row, finish, parser
from freshet.v1 import streams_pb2, streams_pb2_grpc
from service.programs.backtest.child import ServerChild

ROUNDS = 10
MESSAGES = 1000
TRACED = 300  # messages under strace
UNDURABLE = 200
TOGETHER = 16  # ticks of one message
PACKED_STREAMS, PACKED_MESSAGES, PACKED_WARM, PACKED_ROUNDS, PACKED_IN_FLIGHT = 1024, 80, 50, 21, 4


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process's living threads, user and system. Exact to 1 ns."""
    return sum(thread.cpu_s for thread in threads(pid).values())


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


@dataclass(frozen=True, slots=True)
class Single:
    """What a message costs a server. Medians over rounds; lists of (freshet, echo).

    cpu_s: seconds; ratio: within a round; trip_s: the client's median wait, seconds; waits: hand-overs between threads,
    a message; calls: system calls of each kind, a message, empty without strace.
    """

    cpu_s: tuple[float, float]
    ratio: float
    trip_s: tuple[float, float]
    waits: tuple[float, float]
    calls: tuple[Counter[str], Counter[str]]


async def measure(in_flight: int, folder: Path, where: bool = False) -> Single:
    """Send ticks one at a time to freshet and to the echo, in turns. where: print CPU and waits of each thread."""
    async with pair(folder) as targets, targets[0].connect() as ours, targets[1].connect() as base:
        call = streams_pb2_grpc.StreamsStub(ours).Open()
        hello = streams_pb2.Hello(model=MODEL, stream="s", durable_in_forecasts=True)  # as the SDK's
        await call.write(streams_pb2.OpenRequest(hello=hello))
        await call.read()
        turns = [(targets[0].pid, call, True), (targets[1].pid, streams_pb2_grpc.StreamsStub(base).Open(), False)]
        rounds: list[dict[int, Turn]] = []
        for r in range(ROUNDS + 1):
            took = {}
            for pid, target, durable in turns if r % 2 else turns[::-1]:
                before, started = threads(pid), time.perf_counter()
                await drive(target, r * MESSAGES + 1, MESSAGES, in_flight, durable)
                took[pid] = Turn(between(before, threads(pid)), (time.perf_counter() - started) / MESSAGES)
            if r:  # the first round warms up
                rounds.append(took)
            elif where:
                os.kill(targets[0].pid, START)
        calls = []
        for pid, target, durable in turns:
            async with traced(pid) as counted:
                await drive(target, (ROUNDS + 1) * MESSAGES + 1, TRACED, in_flight, durable)
            calls.append(Counter({name: n / TRACED for name, n in counted.items()}))
            if where:
                print(f"{'freshet' if durable else 'echo'}, by thread, a message:")
                print("\n".join(table(rounds[-1][pid].used, pid, MESSAGES)))
            await target.done_writing()
    ours_, base_ = ([took[pid] for took in rounds] for pid, _, _ in turns)
    return Single(
        (median(t.cpu_s for t in ours_), median(t.cpu_s for t in base_)),
        median(a.cpu_s / b.cpu_s for a, b in zip(ours_, base_, strict=True)),
        (median(t.trip_s for t in ours_), median(t.trip_s for t in base_)),
        (median(t.waits for t in ours_), median(t.waits for t in base_)),
        (calls[0], calls[1]),
    )


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of MESSAGES at one server. used: by thread; trip_s: seconds a message took."""

    used: dict[int, Thread]
    trip_s: float

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all threads, a message."""
        return sum(thread.cpu_s for thread in self.used.values()) / MESSAGES

    @property
    def waits(self) -> float:
        """Times that a thread waited, a message."""
        return sum(thread.waits for thread in self.used.values()) / MESSAGES


async def together(folder: Path) -> list[Row]:
    """Return the rows of messages of TOGETHER ticks of one stream. folder: a new one."""
    folder.mkdir()
    async with pair(folder) as targets, targets[0].connect() as ours, targets[1].connect() as base:
        call, bare = streams_pb2_grpc.StreamsStub(ours).Open(), streams_pb2_grpc.StreamsStub(base).Open()
        hello = streams_pb2.Hello(model=MODEL, stream="s", durable_in_forecasts=True)
        await call.write(streams_pb2.OpenRequest(hello=hello))
        await call.read()
        found = []
        for r in range(ROUNDS + 1):
            before = cpu_s(targets[0].pid), cpu_s(targets[1].pid)
            await drive_together(call, r * MESSAGES + 1, MESSAGES)
            middle = cpu_s(targets[0].pid)
            await drive(bare, r * MESSAGES + 1, MESSAGES, 1, durable=False)
            found.append(((middle - before[0]) / MESSAGES, (cpu_s(targets[1].pid) - before[1]) / MESSAGES))
        await call.done_writing()
        await bare.done_writing()
    case = f"{TOGETHER} ticks of a stream a message, H=32"
    return [
        Row(case, "server CPU per tick", median(a for a, _ in found[1:]), "s"),
        Row(case, "over the echo of a single tick", median(a / b for a, b in found[1:]), "ratio"),
    ]


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


class Mux:
    """One call of Mux at one server, with its streams bound. first: the seq of the next message."""

    def __init__(self, target: Target, streams: int) -> None:
        self.target, self._streams, self._first = target, streams, 1

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        """Open the call, for as long as `stack`."""
        channel = await stack.enter_async_context(self.target.connect())
        self._call: Any = streams_pb2_grpc.StreamsStub(channel).Mux()
        stack.callback(self._call.cancel)
        bind = [streams_pb2.Bind(handle=i, stream=f"s{i}") for i in range(self._streams)]
        await self._call.write(streams_pb2.MuxRequest(model=MODEL, bind=bind))
        await self._call.read()

    async def turn(self, messages: int) -> tuple[float, float]:
        """Send messages; return forecasts per second of server CPU, and of wall time."""
        cpu, wall = cpu_s(self.target.pid), time.perf_counter()
        await drive_packed(self._call, self._streams, self._first, messages)
        self._first += messages
        n = self._streams * messages
        return n / (cpu_s(self.target.pid) - cpu), n / (time.perf_counter() - wall)


async def packed(streams: int, folder: Path, tree: Path | None) -> list[Row]:
    """Return the rows of packed messages with one tick per stream. tree: another checkout, to take turns with."""
    async with contextlib.AsyncExitStack() as stack:
        child = await stack.enter_async_context(ServerChild(folder / "packed", folder / "log"))
        targets = [Target(child.pid, child.grpc)]
        await create_model(targets[0])
        if tree:
            targets.append(await stack.enter_async_context(other(tree, folder / "other")))
        calls = [Mux(target, streams) for target in targets]
        for call in calls:
            await call.open(stack)
            await call.turn(PACKED_WARM)
        rounds = []
        for r in range(PACKED_ROUNDS):
            taken = [(0.0, 0.0)] * len(calls)
            for which in range(len(calls))[:: 1 if r % 2 else -1]:
                taken[which] = await calls[which].turn(PACKED_MESSAGES)
            rounds.append(taken)
    case = f"packed, {streams} streams a message, H=32"
    rate, wall = (median(taken[0][i] for taken in rounds) for i in (0, 1))
    rows = [
        Row(case, "forecasts per second of one core", rate, "1/s", asked=300_000, better="higher"),
        Row(case, "forecasts per second, one client", wall, "1/s"),
    ]
    if tree:
        theirs = median(taken[1][0] for taken in rounds)
        ratio = median(taken[0][0] / taken[1][0] for taken in rounds)
        rows.append(Row(case, "other checkout's forecasts per second of one core", theirs, "1/s"))
        rows.append(Row(case, "forecasts per second of one core over other checkout's", ratio, "ratio"))
    return rows


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


def single_rows(case: str, found: Single, loop_s: float) -> list[Row]:
    """Return the rows of single messages. loop_s: see `calibration_s`."""
    rows = [
        Row(case, "server CPU per message", found.cpu_s[0], "s"),
        Row(case, "bare echo CPU per message", found.cpu_s[1], "s"),
        Row(case, "server over echo", found.ratio, "ratio", asked=1.6),
        Row(case, "server CPU per message over 1,000 rounds of a Python loop", found.cpu_s[0] / loop_s, "ratio"),
    ]
    for name, ours, bare in (("round trip", *found.trip_s), ("waits of threads per message", *found.waits)):
        unit = "s" if name == "round trip" else "1"
        rows += [Row(case, f"{name}, server", ours, unit), Row(case, f"{name}, echo", bare, unit)]
    for name in SHOWN if found.calls[0] else ():
        rows += [
            Row(case, f"{name} per message, {who}", calls[name], "1")
            for who, calls in zip(("server", "echo"), found.calls, strict=True)
        ]
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows; return 1 if a ratio exceeds its bound."""
    options = parser(__doc__)
    options.add_argument("--where", action="store_true", help="also print where the server's threads spend their time")
    options.add_argument("--only", choices=("single", "together", "packed"), help="measure only these messages")
    options.add_argument("--against", type=Path, metavar="TREE", help="packed: another checkout, to take turns with")
    arguments = options.parse_args(argv)
    where, only = arguments.where, arguments.only
    loop_s = calibration_s() / LOOPS * 1000
    rows = [Row("this machine", "1,000 rounds of a Python loop", loop_s, "s")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if only in (None, "single"):
            with sampled(folder) if where else contextlib.nullcontext() as samples:
                rows += single_rows("1 in flight, H=32", asyncio.run(measure(1, folder, where)), loop_s)
            if samples:
                print(samples.read_text())
        if only in (None, "together"):
            rows += asyncio.run(together(folder / "together"))
        if only in (None, "packed"):
            tree = arguments.against and arguments.against.resolve()
            rows += asyncio.run(packed(PACKED_STREAMS, folder, tree))
    return finish(rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
