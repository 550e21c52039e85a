"""`--through service`: the same rows through a real server and the real client, throttled by client messages only."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import freshet
import numpy as np
import numpy.typing as npt
from freshet.v1.models_pb2 import ModelEvent

from service.backtest.child import ServerChild, ServerFailed
from service.backtest.plan import Plan
from service.backtest.scrape import Scraped, scrape

STALENESS = 32  # K, in labels
SETTLE_S = 60.0  # longest wait, after the last row, for the disk and for the last verdict

Take = Callable[[int, npt.NDArray[np.float32]], None]  # (origin row, forecast [horizon, targets])
Result = TypeVar("Result")


@dataclass(slots=True)
class Observed:
    """What the client saw during one replay."""

    staleness: list[int] = field(default_factory=list)  # per forecast; empty for a model that does not learn
    latency_s: list[float] = field(default_factory=list)  # per message
    lost: int = 0  # ticks that were taken, but whose answer the server no longer had after a reconnect
    published: set[int] = field(default_factory=set)  # versions that went into service while it ran
    vetoes: int = 0
    reconnects: int = 0
    wall_s: float = 0.0


async def replay(target: str, model: str, stream_id: str, plan: Plan, max_staleness: int, take: Take) -> Observed:
    """Create the model, send the plan's rows as one stream's ticks, and pass each forecast to `take`.

    target: HOST:PORT. A tick is sent only once labels up to `max_staleness` before it are judged. On return every tick
    is on the server's disk, and judged. Raises FreshetError; TimeoutError if the disk takes longer than SETTLE_S.
    """
    spec, seen = plan.spec, Observed()
    async with freshet.connect(target) as client:
        keys = {name: value for name, value in spec.to_mapping().items() if name != "channels"}
        await client.create_model(model, spec.channels, **keys)
        watching = asyncio.create_task(_watch(client, model, seen))
        try:
            async with client.stream(model, stream_id) as stream:
                first, started = stream.welcome.version, time.perf_counter()
                await _send(stream, plan, max_staleness if spec.learn else None, take, seen)
                seen.wall_s = time.perf_counter() - started
                await asyncio.wait_for(stream.durable(), SETTLE_S)
                if spec.learn:
                    with contextlib.suppress(TimeoutError):  # a trainer that lags loses nothing
                        await asyncio.wait_for(stream.wait_judged(plan.rows), SETTLE_S)
                seen.reconnects = stream.reconnects
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    seen.published.discard(first)
    return seen


async def _send(
    stream: freshet.Stream, plan: Plan, max_staleness: int | None, take: Take, seen: Observed
) -> None:
    x = plan.series.x[: plan.rows]
    times = None if plan.series.time is None else plan.series.time[: plan.rows]
    async for forecast in stream.forecasts(x, times, max_staleness=max_staleness):
        if forecast.lost:
            seen.lost += 1
            continue
        if max_staleness is not None:
            seen.staleness.append(forecast.staleness)
        seen.latency_s.append(forecast.latency_s)
        seen.published.add(forecast.version)
        take(forecast.seq - 1, forecast.y)


async def _watch(client: freshet.Client, model: str, seen: Observed) -> None:
    """Count verdicts. Events during a reconnect are missed; versions are also seen on the forecasts."""
    async for event in client.watch(model):
        if event.kind == ModelEvent.PUBLISHED:
            seen.published.add(event.version)
        elif event.kind == ModelEvent.VETOED:
            seen.vetoes += 1


async def run(plan: Plan, url: str | None, max_staleness: int, take: Take) -> tuple[Observed, Scraped]:
    """Replay through the server at `url`, HOST:PORT, or through one of its own that lives as long as the replay.

    The model is new and has a name of its own: on a running server it stays behind. A server that is not ours does not
    tell where its /metrics are, so nothing is scraped. Raises what `replay` raises, and ServerFailed.
    """
    model = f"backtest-{uuid.uuid4().hex[:12]}"
    if url is not None:
        return await replay(url, model, "replay", plan, max_staleness, take), Scraped()
    async with own_server() as server:
        observed = await beside(server, replay(server.grpc, model, "replay", plan, max_staleness, take))
        return observed, await scrape(server.http, model)


@contextlib.asynccontextmanager
async def own_server(**settings: Any) -> AsyncIterator[ServerChild]:
    """A server on free ports and a temporary data directory, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="freshet-") as folder:
        async with ServerChild(Path(folder, "data"), Path(folder, "server.log"), settings=settings) as server:
            yield server


async def beside(server: ServerChild, work: Awaitable[Result]) -> Result:
    """The work's result. Raises ServerFailed if the server ends before the work does."""
    task, ended = asyncio.ensure_future(work), asyncio.ensure_future(server.wait())
    try:
        await asyncio.wait([task, ended], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ServerFailed(f"the server ended with exit code {ended.result()}{server.last_words()}")
        return task.result()
    finally:
        for each in (task, ended):
            each.cancel()
        await asyncio.gather(task, ended, return_exceptions=True)
