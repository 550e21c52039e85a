"""Measure a good stream's latency beside the heaviest permitted models, against its latency on a quiet server.

Each heavy load is one or more calls of Mux with one full message after another, or single ticks of many streams. It
runs in a separate process, so that the figures show the server and not the client's event loop. The good stream ticks
one at a time.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import freshet
from bench.report import Row, finish, parser
from service.programs.backtest.child import ServerChild

ALLOWED_S = 0.02  # by which the good stream's p95 may exceed its p95 on a quiet server
WARM_TICKS = 50
LOADS: dict[str, tuple[dict[str, Any], int, int]] = {  # spec, streams, calls of Mux (0: single ticks)
    "hidden 1024, 1,024 streams": ({"channels": ["x"], "hidden": 1024}, 1024, 1),
    "256 channels × hidden 1024": ({"channels": [f"c{i}" for i in range(256)], "hidden": 1024}, 900, 1),
    "4,096 classes": ({"channels": ["x"], "task": "classify", "classes": [f"k{i}" for i in range(4096)]}, 1024, 1),
    "4,096 channels": ({"channels": [f"c{i}" for i in range(4096)], "targets": ["c0"], "hidden": 64}, 60, 1),
    "default model, 16 calls": ({"channels": ["x"]}, 1024, 16),
    "hidden 1024, single ticks": ({"channels": ["x"], "hidden": 1024}, 64, 0),
}


def press(address: str, model: str, channels: int, streams: int, calls: int, going: Any, ending: Any) -> None:
    """Send as much as the server accepts until `ending` is set. Runs in a separate process."""
    asyncio.run(_press(address, model, channels, streams, calls, going, ending))


async def _press(address: str, model: str, channels: int, streams: int, calls: int, going: Any, ending: Any) -> None:
    async with freshet.connect(address) as client:
        x = np.random.default_rng(0).standard_normal((streams, channels)).astype(np.float32)

        async def packed(call: int) -> None:
            async with client.mux(model) as mux:
                ids = [f"{call}-{n}" for n in range(streams)]
                while not ending.is_set():
                    await mux.step(ids, x)
                    going.set()

        async def single(n: int) -> None:
            async with client.stream(model, f"single-{n}") as stream:
                while not ending.is_set():
                    await stream.step(x[n])
                    going.set()

        await asyncio.gather(*(map(packed, range(calls)) if calls else map(single, range(streams))))


async def latencies(stream: freshet.Stream, seconds: float) -> list[float]:
    """Send ticks one at a time for `seconds`, and return the seconds that each takes."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        await stream.step([float(len(taken) % 7)])
        taken.append(time.perf_counter() - started)
        await asyncio.sleep(0.002)
    return taken


async def measure(names: Sequence[str], seconds: float) -> list[Row]:
    """Return the rows of each load."""
    rows = []
    start = multiprocessing.get_context("spawn")
    for name in names:
        spec, streams, calls = LOADS[name]
        with tempfile.TemporaryDirectory() as folder:
            child = ServerChild(Path(folder) / "data", Path(folder) / "log")
            async with child, freshet.connect(child.grpc) as client:
                await client.create_model("good", channels=["x"], learn=False)
                await client.create_model("heavy", learn=False, **spec)
                async with client.stream("good", "s") as stream:
                    for n in range(WARM_TICKS):
                        await stream.step([float(n)])
                    quiet = np.quantile(await latencies(stream, seconds), 0.95)
                    going, ending = start.Event(), start.Event()
                    args = (child.grpc, "heavy", len(spec["channels"]), streams, calls, going, ending)
                    pressing = start.Process(target=press, args=args)
                    pressing.start()
                    try:
                        if not await asyncio.to_thread(going.wait, 120):
                            raise RuntimeError(f"{name}: no answer in 120 s")
                        beside = np.quantile(await latencies(stream, seconds), (0.5, 0.95, 0.99))
                    finally:
                        ending.set()
                        await asyncio.to_thread(pressing.join, 60)
                        pressing.kill()
        rows.append(Row(name, "p95 quiet", float(quiet), "s"))
        rows.append(Row(name, "p50 beside it", float(beside[0]), "s"))
        rows.append(Row(name, "p95 beside it, above quiet", float(beside[1] - quiet), "s", asked=ALLOWED_S))
        rows.append(Row(name, "p99 beside it", float(beside[2]), "s"))
        print(*(f"{row.case}: {row.metric} {row.value:.4f}" for row in rows[-4:]), sep="\n", file=sys.stderr)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows; return 1 if the good stream waits longer than allowed."""
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=5.0, help="duration of each phase")
    options.add_argument("--loads", nargs="+", default=list(LOADS), choices=list(LOADS))
    arguments = options.parse_args(argv)
    return finish(asyncio.run(measure(arguments.loads, arguments.seconds)), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
