"""Measure how stale a light model's forecasts are and how long its labels wait, alone and beside a heavy model.

Light: the default model, one stream at a steady rate. Heavy: 40 streams of a model with horizon 96, as fast as the
server accepts their ticks. Both figures are the client's: staleness comes with each forecast; a label waits from
Durable(seq) to judged_through ≥ seq.
"""

from __future__ import annotations

import asyncio
import contextlib
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

STREAMS = 40
HEAVY: dict[str, Any] = {"channels": ["load"], "horizon": 96}
LIGHT: dict[str, Any] = {"channels": ["v"]}


async def light(client: freshet.Client, ticks: int, rate: float) -> tuple[list[int], list[float]]:
    """Return the staleness of each forecast, and the seconds from each tick's answer to its label's verdict."""
    values = np.cumsum(np.random.default_rng(0).standard_normal(ticks)).astype(np.float32)
    staleness: list[int] = []
    sent: list[float] = []
    waited: list[float] = []

    def judged(through: int) -> None:
        now = time.perf_counter()
        waited.extend(now - at for at in sent[len(waited) : through])

    async with client.stream("light", "one") as stream:
        begun = time.perf_counter()
        for n, value in enumerate(values):
            await asyncio.sleep(max(0.0, begun + n / rate - time.perf_counter()))
            forecast = await stream.step([value])
            sent.append(time.perf_counter())
            staleness.append(forecast.staleness)
            judged(forecast.seq - forecast.staleness)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60):
                await stream.wait_judged(ticks)
                judged(ticks)
    waited += [60.0] * (ticks - len(waited))
    return staleness, waited


async def heavy(client: freshet.Client) -> None:
    """Send ticks of all streams until cancelled."""
    rng = np.random.default_rng(1)
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(client.stream("heavy", f"s{n}")) for n in range(STREAMS)]
        while True:
            await asyncio.gather(
                *(stream.step([float(x)]) for stream, x in zip(streams, rng.normal(size=STREAMS), strict=True))
            )


async def measure(ticks: int, rate: float, beside: bool, settings: dict[str, object]) -> list[tuple[str, float, str]]:
    """Return name, value and unit of each of the light model's figures."""
    with tempfile.TemporaryDirectory() as folder:
        child = ServerChild(Path(folder) / "data", Path(folder) / "log", settings=settings)
        async with child, freshet.connect(child.grpc) as client:
            await client.create_model("light", **LIGHT)
            await client.create_model("heavy", **HEAVY)
            other = asyncio.create_task(heavy(client)) if beside else None
            staleness, waited = await light(client, ticks, rate)
            if other is not None:
                other.cancel()
                await asyncio.gather(other, return_exceptions=True)
    return [
        ("staleness, p50", float(np.quantile(staleness, 0.5)), "labels"),
        ("staleness, p95", float(np.quantile(staleness, 0.95)), "labels"),
        ("label to serving, p50", float(np.quantile(waited, 0.5)), "s"),
        ("label to serving, p95", float(np.quantile(waited, 0.95)), "s"),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows; return 1 if one exceeds its bound."""
    options = parser(__doc__)
    options.add_argument("--ticks", type=int, default=500)
    options.add_argument("--rate", type=float, default=25.0, help="ticks per second of the light model")
    options.add_argument("--trainers", default="1")
    arguments = options.parse_args(argv)
    rows = []
    asked = {"staleness, p95": 128.0, "label to serving, p95": 5.0}
    for case, beside in (("alone", False), ("beside the heavy one", True)):
        print(f"{case}: {arguments.ticks} ticks at {arguments.rate:g}/s …", file=sys.stderr)
        found = asyncio.run(measure(arguments.ticks, arguments.rate, beside, {"trainers": arguments.trainers}))
        rows += [Row(case, name, value, unit, asked.get(name)) for name, value, unit in found]
    return finish(rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
