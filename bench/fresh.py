"""Measure the time from a durable label to serving weights whose verdict includes it, as a client sees it.

It runs from Durable(seq) to judged_through ≥ seq, for a steady stream of ticks, once with the default settings and once
with a short publish_s.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from bench.report import Row, finish, parser
from freshet.v1 import models_pb2, models_pb2_grpc, streams_pb2, streams_pb2_grpc, types_pb2
from service.programs.backtest.child import ServerChild

CASES: tuple[tuple[str, dict[str, object], float], ...] = (
    ("defaults (publish_labels 32, publish_s 1)", {}, 1.2),
    ("publish_labels 1, publish_s 0.05", {"publish_labels": 1, "publish_s": 0.05}, 0.1),
)


async def watch(call: Any, ticks: int) -> list[float]:
    """Read until every label has its verdict, and return the seconds from each tick's durability to the verdict."""
    on_disk: list[float] = []
    waited: list[float] = []
    judged = 0
    while judged < ticks:
        response = await call.read()
        now = time.perf_counter()
        kind = response.WhichOneof("message")
        if kind == "durable":
            on_disk += [now] * (response.durable.seq - len(on_disk))
        newer = getattr(response, kind).judged_through if kind in ("durable", "forecast") else judged
        waited += [now - on_disk[seq] for seq in range(judged, newer)]
        judged = max(judged, newer)
    return waited


async def measure(settings: dict[str, object], ticks: int, rate: float) -> list[float]:
    """Return the delays of `ticks` labels sent at `rate` per second."""
    values = np.cumsum(np.random.default_rng(0).standard_normal(ticks)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        child = ServerChild(Path(folder) / "data", Path(folder) / "log", settings=settings)
        async with child, grpc.aio.insecure_channel(child.grpc) as channel:
            spec = types_pb2.ModelSpec(channels=["v"])
            await models_pb2_grpc.ModelsStub(channel).Create(models_pb2.CreateModelRequest(name="m", spec=spec))
            call = streams_pb2_grpc.StreamsStub(channel).Open()
            await call.write(streams_pb2.OpenRequest(hello=streams_pb2.Hello(model="m", stream="s")))
            await call.read()
            watching = asyncio.create_task(watch(call, ticks))
            for i, value in enumerate(values):
                await call.write(streams_pb2.OpenRequest(tick=streams_pb2.Tick(seq=i + 1, x=[value])))
                await asyncio.sleep(1 / rate)
            waited = await asyncio.wait_for(watching, 30)
            await call.done_writing()
    return waited


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows; return 1 if one exceeds its bound."""
    options = parser(__doc__)
    options.add_argument("--ticks", type=int, default=800)
    options.add_argument("--rate", type=float, default=60.0, help="ticks per second")
    arguments = options.parse_args(argv)
    rows = []
    for case, settings, asked in CASES:
        print(f"{case}: {arguments.ticks} ticks at {arguments.rate:g}/s …", file=sys.stderr)
        waited = asyncio.run(measure(settings, arguments.ticks, arguments.rate))
        rows.append(Row(case, "label to serving, p50", float(np.quantile(waited, 0.5)), "s"))
        rows.append(Row(case, "label to serving, p95", float(np.quantile(waited, 0.95)), "s", asked=asked))
    return finish(rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
