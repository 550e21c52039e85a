"""Measure one model that learns from 2,000 streams at once: labels per second, staleness, and error beside baselines.

Every stream has its own level, size, phase and noise, but all follow one law: a daily wave plus a nonlinear
autoregression. All ticks go through one call of Streams.Mux, one tick per stream in each message. The next message
goes out when no forecast would be staler than AHEAD labels, or at once if one already is. Each forecast is made before
its value is known. The baselines are persistence and one recursive least squares per stream on the same ticks.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from bench.memory import metric
from bench.report import Row, finish, parser
from freshet.v1 import models_pb2, models_pb2_grpc, streams_pb2, streams_pb2_grpc, types_pb2
from model.offline.least_squares import RecursiveLeastSquares
from service.programs.backtest.child import ServerChild

DAY = 24
AHEAD = 4  # labels of each stream that may lack a verdict when its next tick is sent
SCORED_FROM = 0.25  # the share of ticks at the start that is not scored, because every forecaster still learns
INTERVAL_S = 3600.0


def fleet(streams: int, ticks: int, seed: int) -> NDArray[np.float32]:
    """Return values of shape [ticks, streams]."""
    rng = np.random.default_rng(seed)
    t = np.arange(ticks)[:, None]
    wave = np.sin(2 * np.pi * t / DAY + rng.uniform(0, 2 * np.pi, streams))
    x = np.zeros((ticks, streams))
    for i in range(3, ticks):
        x[i] = 0.8 * x[i - 1] - 0.5 * x[i - 2] + 0.6 * np.tanh(2 * x[i - 3]) + 0.3 * rng.standard_normal(streams)
    size, level = 10.0 ** rng.uniform(-2, 3, streams), rng.uniform(-5, 5, streams)
    return (size * (x + wave + level)).astype(np.float32)


@dataclass(frozen=True)
class Ran:
    """The results of one run. y: [ticks, streams] forecasts of the next tick; staleness: labels per forecast."""

    y: NDArray[np.float32]
    staleness: NDArray[np.int64]
    learned: float
    seconds: float


async def run(x: NDArray[np.float32], hidden: int) -> Ran:
    """Send the fleet through a real server."""
    ticks, streams = x.shape
    y, judged = np.zeros((ticks, streams), np.float32), np.zeros((ticks, streams), np.int64)
    with tempfile.TemporaryDirectory() as folder:
        async with (
            ServerChild(Path(folder) / "data", Path(folder) / "log") as child,
            grpc.aio.insecure_channel(child.grpc, options=[("grpc.max_receive_message_length", 64 << 20)]) as channel,
        ):
            spec = types_pb2.ModelSpec(channels=["v"], hidden=hidden, interval=INTERVAL_S)
            await models_pb2_grpc.ModelsStub(channel).Create(models_pb2.CreateModelRequest(name="m", spec=spec))
            call: Any = streams_pb2_grpc.StreamsStub(channel).Mux()
            bind = [streams_pb2.Bind(handle=i, stream=f"s{i}") for i in range(streams)]
            await call.write(streams_pb2.MuxRequest(model="m", bind=bind))
            while not (await call.read()).bound:
                pass
            started = time.perf_counter()
            models = models_pb2_grpc.ModelsStub(channel)
            first = (await models.Get(models_pb2.GetModelRequest(name="m"))).offset
            for t in range(ticks):
                await until_fresh(models, first + streams * (t - AHEAD + 1))
                await call.write(streams_pb2.MuxRequest(ticks=wave(t, x[t])))
                await take(call, y[t], judged[t])
            await until_fresh(models, first + streams * ticks)
            seconds = time.perf_counter() - started
            learned = await metric(child.http, "freshet_labels_learned_total")
            await call.done_writing()
    staleness = np.arange(1, ticks + 1)[:, None] - judged
    return Ran(y, staleness, learned, seconds)


def wave(t: int, x: NDArray[np.float32]) -> streams_pb2.Columns:
    """Return tick t of every stream."""
    n = len(x)
    return streams_pb2.Columns(
        handle=np.arange(n, dtype="<u4").tobytes(),
        seq=np.full(n, t + 1, "<u8").tobytes(),
        x=x.tobytes(),
        time=np.full(n, (t + 1) * INTERVAL_S, "<f8").tobytes(),
    )


async def take(call: Any, y: NDArray[np.float32], judged: NDArray[np.int64]) -> None:
    """Read until every stream has its forecast."""
    left = len(y)
    while left:
        response = await call.read()
        if response.refused:
            raise RuntimeError(f"refused: {response.refused[0]}")
        handles = np.frombuffer(response.forecasts.handle, "<u4")
        y[handles] = np.frombuffer(response.forecasts.y, "<f4")
        judged[handles] = np.frombuffer(response.forecasts.judged_through, "<u8")
        left -= len(handles)


async def until_fresh(models: Any, offset: int) -> None:
    """Wait until the model's labels up to a journal offset have their verdict."""
    while (await models.Get(models_pb2.GetModelRequest(name="m"))).judged_offset < offset:
        await asyncio.sleep(0.002)


def rls(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the forecasts of one recursive least squares per stream."""
    hour = 2 * np.pi * (np.arange(1, len(x) + 1) + 1) / DAY
    known = np.stack([np.sin(hour), np.cos(hour)], axis=1)
    baseline = RecursiveLeastSquares(x.shape[1], 1, known=2)
    return np.array([baseline.step(row, u)[0] for row, u in zip(x, known, strict=True)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows."""
    options = parser(__doc__)
    options.add_argument("--streams", type=int, default=2000)
    options.add_argument("--ticks", type=int, default=400)
    options.add_argument("--hidden", type=int, default=32)
    options.add_argument("--seed", type=int, default=0)
    a = options.parse_args(argv)
    x = fleet(a.streams, a.ticks, a.seed)
    ran = asyncio.run(run(x, a.hidden))
    first = int(SCORED_FROM * a.ticks)
    truth, unit = x[first + 1 :].astype(np.float64), x.astype(np.float64).std(axis=0)
    errors = {
        name: float(np.mean(((y[first:-1] - truth) / unit) ** 2))
        for name, y in (("freshet", ran.y), ("rls", rls(x)), ("persistence", x))
    }
    case = f"{a.streams} streams, H={a.hidden}"
    rows = [
        Row(case, "labels learned per second", ran.learned / ran.seconds, "1/s"),
        Row(case, "labels learned of those there were", ran.learned / (a.streams * (a.ticks - 1)), "ratio"),
        Row(case, "staleness p95, labels", float(np.percentile(ran.staleness[first:], 95)), "labels"),
        *(Row(case, f"mean square error, {name}", error, "z²") for name, error in errors.items()),
        Row(case, "freshet over one RLS per stream", errors["freshet"] / errors["rls"], "ratio", asked=1.0),
    ]
    return finish(rows, a.json)


if __name__ == "__main__":
    sys.exit(main())
