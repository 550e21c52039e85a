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

from bench._costs import LOOPS, SHOWN, Thread, between, calibration_s, table, threads, traced
from bench._drives import MESSAGES, PACKED_STREAMS, ROUNDS, drive, opened
from bench._echo import MODEL, other, pair
from bench._sampler import START, sampled
from bench._several import packed, together
from bench.report import Row, finish, parser
from freshet.v1 import streams_pb2_grpc

TRACED = 300  # messages under strace


@dataclass(frozen=True, slots=True)
class Single:
    """What a message costs a server. Medians over rounds; lists of (freshet, echo).

    cpu_s: seconds; ratio: within a round; trip_s: the client's median wait, seconds; waits: hand-overs between threads,
    a message; calls: system calls of each kind, a message, empty without strace. other: of another checkout's server,
    seconds and our ratio to it within a round; None without one.
    """

    cpu_s: tuple[float, float]
    ratio: float
    trip_s: tuple[float, float]
    waits: tuple[float, float]
    calls: tuple[Counter[str], Counter[str]]
    other: tuple[float, float] | None = None


async def measure(in_flight: int, folder: Path, where: bool = False, tree: Path | None = None) -> Single:
    """Send ticks one at a time to freshet and to the echo, in turns. where: print CPU and waits of each thread.

    tree: another checkout, whose server takes turns with both.
    """
    async with contextlib.AsyncExitStack() as stack:
        targets = await stack.enter_async_context(pair(folder))
        ours, base = [await stack.enter_async_context(target.connect()) for target in targets]
        call = await opened(ours, MODEL)
        turns = [(targets[0].pid, call, True), (targets[1].pid, streams_pb2_grpc.StreamsStub(base).Open(), False)]
        if tree:
            beside = await stack.enter_async_context(other(tree, folder / "single"))
            its = await stack.enter_async_context(beside.connect())
            turns.append((beside.pid, await opened(its, MODEL), True))
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
        for pid, target, durable in turns[:2]:
            async with traced(pid) as counted:
                await drive(target, (ROUNDS + 1) * MESSAGES + 1, TRACED, in_flight, durable)
            calls.append(Counter({name: n / TRACED for name, n in counted.items()}))
            if where:
                print(f"{'freshet' if durable else 'echo'}, by thread, a message:")
                print("\n".join(table(rounds[-1][pid].used, pid, MESSAGES)))
        for _, target, _ in turns:
            await target.done_writing()
    ours_, base_, *theirs = ([took[pid] for took in rounds] for pid, _, _ in turns)
    return Single(
        (median(t.cpu_s for t in ours_), median(t.cpu_s for t in base_)),
        against(ours_, base_),
        (median(t.trip_s for t in ours_), median(t.trip_s for t in base_)),
        (median(t.waits for t in ours_), median(t.waits for t in base_)),
        (calls[0], calls[1]),
        (median(t.cpu_s for t in theirs[0]), against(ours_, theirs[0])) if theirs else None,
    )


def against(ours: Sequence[Turn], theirs: Sequence[Turn]) -> float:
    """Return the median over rounds of our CPU over theirs."""
    return median(a.cpu_s / b.cpu_s for a, b in zip(ours, theirs, strict=True))


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
    if found.other:
        rows.append(Row(case, "other checkout's server CPU per message", found.other[0], "s"))
        rows.append(Row(case, "server over other checkout's", found.other[1], "ratio"))
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
    options.add_argument(
        "--against", type=Path, metavar="TREE", help="single, packed: another checkout, to take turns with"
    )
    arguments = options.parse_args(argv)
    where, only, tree = arguments.where, arguments.only, arguments.against and arguments.against.resolve()
    loop_s = calibration_s() / LOOPS * 1000
    rows = [Row("this machine", "1,000 rounds of a Python loop", loop_s, "s")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if only in (None, "single"):
            with sampled(folder) if where else contextlib.nullcontext() as samples:
                rows += single_rows("1 in flight, H=32", asyncio.run(measure(1, folder, where, tree)), loop_s)
            if samples:
                print(samples.read_text())
        if only in (None, "together"):
            rows += asyncio.run(together(folder / "together"))
        if only in (None, "packed"):
            rows += asyncio.run(packed(PACKED_STREAMS, folder, tree))
    return finish(rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
