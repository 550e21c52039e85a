"""`--through service`: the same rows through a real server and client, throttled only by the client's messages."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

import freshet
from freshet import EventKind
from service.common.limits import MAX_TIME_S
from service.common.tasks import together
from service.console.failures import ServerFailed, Stalled
from service.console.remote import Remote
from service.programs.backtest.child import ServerChild
from service.programs.backtest.plan import Plan
from service.programs.backtest.scrape import Scraped, scrape

STALENESS = 32  # K, in labels
# One message at a time, as a sensor sends them; with more, the measured latency would include our own queue.
IN_FLIGHT = 1
PUBLISH_LABELS = 32  # the default of the setting publish_labels; a test compares them
STALL_S = 60.0  # longest wait for one forecast; the throttle waits for verdicts, which a failing server never sends
SETTLE_S = 60.0  # longest wait after the last row, for the disk and for the last verdict

Take = Callable[[int, npt.NDArray[np.floating[Any]]], None]  # (origin row, forecast [horizon, targets])
TakeEach = Callable[[int, int, npt.NDArray[np.floating[Any]]], None]  # (series, origin row, forecast)
Result = TypeVar("Result")


class Paced(Protocol):
    """Decides when a stream's next tick is due."""

    async def turn(self) -> None:
        """Wait until it is."""
        ...


@dataclass(slots=True)
class Observed:
    """Measurements of the client during one replay."""

    staleness: list[int] = field(default_factory=list)  # per forecast; empty for a model that does not learn
    latency_s: list[float] = field(default_factory=list)  # per message
    lost: int = 0  # accepted ticks whose answer the server no longer had after a reconnect
    published: set[int] = field(default_factory=set)  # versions in service, the first included
    vetoes: int = 0
    reconnects: int = 0
    wall_s: float = 0.0

    @property
    def versions(self) -> int:
        """Number of versions that went into service during the replay."""
        return max(0, len(self.published) - 1)

    def forecast(self, forecast: freshet.Forecast, learns: bool) -> None:
        """Record one forecast."""
        if forecast.lost:
            self.lost += 1
            return
        if learns:
            self.staleness.append(forecast.staleness)
        self.latency_s.append(forecast.latency_s)
        self.published.add(forecast.version)


async def replay(target: Remote, model: str, stream_id: str, plan: Plan, max_staleness: int, take: Take) -> Observed:
    """Create the model, send the plan's only series as a stream's ticks, and pass each forecast to `take`."""
    return await replay_all(target, model, [stream_id], plan, max_staleness, lambda _, row, y: take(row, y))


async def replay_all(
    target: Remote,
    model: str,
    stream_ids: Sequence[str],
    plan: Plan,
    max_staleness: int,
    take: TakeEach,
    paces: Sequence[Paced] = (),
) -> Observed:
    """Create the model, send each series as the ticks of a stream, side by side, and pass forecasts to `take`.

    stream_ids: one for each series; paces: likewise, or none: as fast as the server learns. A tick is sent only after
    the labels up to `max_staleness` before it are judged.
    On return every tick is on the server's disk and judged. Raises FreshetError, and Stalled for waits longer than
    STALL_S and SETTLE_S.
    """
    spec, seen = plan.spec, Observed()
    async with target.connect() as client:
        keys = {name: value for name, value in spec.to_mapping().items() if name != "channels"}
        await client.create_model(model, spec.channels, weights=plan.weights or b"", **keys)
        watching = asyncio.create_task(_watch(client, model, seen))
        try:
            started = time.perf_counter()
            streams = [
                _stream(
                    client,
                    model,
                    id,
                    plan.alone(series),
                    max_staleness,
                    partial(take, n),
                    seen,
                    started,
                    paces[n] if paces else None,
                )
                for n, (id, series) in enumerate(zip(stream_ids, plan.entities, strict=True))
            ]
            await together(streams)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    return seen


async def _stream(
    client: freshet.Client,
    model: str,
    id: str,
    plan: Plan,
    max_staleness: int,
    take: Take,
    seen: Observed,
    started: float,
    pace: Paced | None,
) -> None:
    """Send the plan's only series. started: start of the replay, performance counter."""
    offset, sent, spec = plan.series.offset, plan.series.sent, plan.spec
    static = {} if sent is None else dict(zip(reversed(spec.static), sent[0, ::-1].tolist(), strict=False))
    by = None if offset is None else offset.tolist()
    async with client.stream(model, id, IN_FLIGHT, offset=by, static=static) as stream:
        seen.published.add(stream.welcome.version)
        await _send(stream, plan, max_staleness if plan.spec.learn else None, take, seen, pace)
        seen.wall_s = max(seen.wall_s, time.perf_counter() - started)
        await _settle(stream, plan.rows)
        seen.reconnects += stream.reconnects


async def _send(
    stream: freshet.Stream, plan: Plan, max_staleness: int | None, take: Take, seen: Observed, pace: Paced | None
) -> None:
    x: npt.NDArray[Any] = plan.series.x[: plan.rows]
    if plan.series.offset is not None:  # otherwise the rounded values; the plan's notes state what rounding loses
        x = np.where(plan.series.offset != 0, plan.series.values[: plan.rows], x)
    times = None if plan.series.time is None else plan.series.time[: plan.rows]
    sent = _ticks(plan, x, times)
    if pace is not None:
        sent = _paced(sent, pace), None
    loop, seq = asyncio.get_running_loop(), 0
    try:
        async with asyncio.timeout(STALL_S) as patience:
            async for forecast in stream.forecasts(*sent, max_staleness=max_staleness):
                patience.reschedule(loop.time() + STALL_S)
                seq = forecast.seq
                seen.forecast(forecast, max_staleness is not None)
                if not forecast.lost:
                    take(seq - 1, forecast.y)
    except TimeoutError:
        raise Stalled(
            f"no forecast for {STALL_S:g} s after tick {seq}, with labels judged up to tick {stream.judged_through}: "
            "check the server's log"
        ) from None


def _ticks(plan: Plan, x: npt.NDArray[Any], times: Any) -> tuple[Any, Any]:
    """Return values and times for `Stream.forecasts`; ticks with their known inputs, if the model has some."""
    ahead = plan.spec.horizon * len(plan.spec.known)
    if not ahead or plan.series.sent is None:
        return x, times
    moments = [None] * len(x) if times is None else times
    known = plan.series.sent[: len(x), :ahead]
    return [freshet.Tick(*each) for each in zip(x, moments, known, strict=True)], None


async def _paced(sent: tuple[Any, Any], pace: Paced) -> AsyncIterator[Any]:
    """Yield what `_ticks` returned, tick by tick, each at its turn."""
    rows, times = sent
    for n, row in enumerate(rows):
        await pace.turn()
        yield row if times is None else freshet.Tick(row, times[n])


async def _settle(stream: freshet.Stream, rows: int) -> None:
    """Wait until everything is on disk and, if the model learns, judged. A slow trainer is no error."""
    try:
        await asyncio.wait_for(stream.durable(), SETTLE_S)
    except TimeoutError:
        raise Stalled(f"ticks after {stream.durable_seq} are not on the server's disk after {SETTLE_S:g} s") from None
    if stream.spec.learn:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stream.wait_judged(rows), SETTLE_S)


async def _watch(client: freshet.Client, model: str, seen: Observed) -> None:
    """Count verdicts. Events during a reconnect are missed; forecasts carry versions too."""
    async for event in client.watch(model):
        if event.kind == EventKind.PUBLISHED:
            seen.published.add(event.version)
        elif event.kind == EventKind.VETOED:
            seen.vetoes += 1


async def run(plan: Plan, remote: Remote | None, max_staleness: int, take: Take) -> tuple[Observed, Scraped]:
    """`run_all` for a plan of one series."""
    return await run_all(plan, remote, max_staleness, lambda _, row, y: take(row, y))


async def run_all(plan: Plan, remote: Remote | None, max_staleness: int, take: TakeEach) -> tuple[Observed, Scraped]:
    """Replay through a running server or, if `remote` is None, through a server started for this replay.

    The model is new, with a unique name, and remains on a running server. The address of a running server's /metrics
    is not known, so nothing is scraped there. Raises what `replay` raises, and ServerFailed.
    """
    model = f"backtest-{uuid.uuid4().hex[:12]}"
    ids = [series.entity or "replay" for series in plan.entities]
    if remote is not None:
        return await replay_all(remote, model, ids, plan, max_staleness, take), Scraped()
    # With more labels per publish, the throttle would wait for the timer, publish_s, every few ticks.
    publish_labels = min(max_staleness, PUBLISH_LABELS)
    # The file's times may be recorded or synthetic, so this server does not compare them with its clock.
    async with own_server(publish_labels=publish_labels, max_ahead_s=MAX_TIME_S) as server:
        replaying = replay_all(Remote(server.grpc), model, ids, plan, max_staleness, take)
        observed = await beside(must_live(server), replaying)
        return observed, await scrape(server.http, model)


@contextlib.asynccontextmanager
async def own_server(**settings: Any) -> AsyncIterator[ServerChild]:
    """Run a server on free ports and a temporary data directory, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="freshet-") as folder:
        async with ServerChild(Path(folder, "data"), Path(folder, "server.log"), settings=settings) as server:
            yield server


async def beside(guard: Coroutine[Any, Any, NoReturn], work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of `work`. `guard` runs beside it; an error of the guard cancels the work and is raised."""
    watching, working = asyncio.create_task(guard), asyncio.create_task(work)
    try:
        await asyncio.wait([watching, working], return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else watching.result()
    finally:
        watching.cancel()
        working.cancel()
        await asyncio.gather(watching, working, return_exceptions=True)


async def must_live(server: ServerChild) -> NoReturn:
    """Wait until the server ends, then raise ServerFailed: a guard for `beside`."""
    code = await server.wait()
    raise ServerFailed(f"the server ended with exit code {code}{server.last_words()}")
