"""The rows of `bench edge` for messages of several ticks: of one stream, or one of each of many streams."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench._costs import cpu_s
from bench._drives import MESSAGES, ROUNDS, TOGETHER, drive, drive_packed, drive_together, opened
from bench._echo import MODEL, Target, create_model, other, pair
from bench.report import Row
from freshet.v1 import streams_pb2, streams_pb2_grpc
from service.programs.backtest.child import ServerChild

PACKED_MESSAGES, PACKED_WARM, PACKED_ROUNDS = 80, 50, 21


async def together(folder: Path) -> list[Row]:
    """Return the rows of messages of TOGETHER ticks of one stream. folder: a new one."""
    folder.mkdir()
    async with pair(folder) as targets, targets[0].connect() as ours, targets[1].connect() as base:
        call, bare = await opened(ours, MODEL), streams_pb2_grpc.StreamsStub(base).Open()
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
