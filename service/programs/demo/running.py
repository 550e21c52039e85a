"""The demo: a real server as a child process, the series through it, the report.

Whenever the server dies it is restarted on the same data, and the client resumes by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from service.console.progress import progress
from service.console.remote import Remote
from service.programs.backtest.child import ServerChild, free_port
from service.programs.backtest.command import check_outputs, count, finish, service_report
from service.programs.backtest.plan import Plan, make_plan
from service.programs.backtest.report import Report
from service.programs.backtest.scrape import scrape
from service.programs.backtest.through_service import STALENESS, Observed, beside, replay_all
from service.programs.demo.browser import open_page
from service.programs.demo.closing import MODEL, closing
from service.programs.demo.pacing import Pace, checked_pace
from service.programs.demo.recovery import Errors, Recovery, frozen
from service.programs.demo.watching import Moment
from service.programs.demo.worlds import ZONE_ROWS, checked_streams, names, world


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user asked for.

    rows: of each stream, None: the default; pace: ticks per second of each stream, 0: no limit, None: the default.
    json: file for the report, with the keys of a backtest's, and `drift` with those of `Recovery` if `drifts`.
    """

    rows: int | None = None
    streams: int = 1
    drifts: bool = False
    pace: float | None = None
    json: Path | None = None
    keeps: bool = False
    opens: bool = True


def demo(file: Path, wishes: Wishes) -> int:
    """Run the demo with the recorded series and return the exit code.

    Raises Invalid, OSError; FreshetError, ServerFailed, Stalled; KeyboardInterrupt after everything has stopped.
    """
    check_outputs(json=wishes.json)
    pace = checked_pace(wishes.pace, wishes.streams, wishes.drifts)
    many = checked_streams(wishes.streams) > 1
    rows = ZONE_ROWS if many and wishes.rows is None else wishes.rows
    alone = make_plan(file, rows=rows)
    # A zone is made of all that was recorded, not only of the first rows.
    plan = (
        world(make_plan(file), wishes.streams, alone.rows, wishes.drifts)
        if many
        else world(alone, drifts=wishes.drifts)
    )
    folder = Path(tempfile.mkdtemp(prefix="freshet-demo-"))
    try:
        return asyncio.run(_demo(plan, folder, wishes, pace))
    finally:
        if not wishes.keeps:
            shutil.rmtree(folder, ignore_errors=True)


async def _demo(plan: Plan, folder: Path, wishes: Wishes, pace: float) -> int:
    # Fixed ports: the client reconnects to the address that it had before a restart.
    listen, http = (f"127.0.0.1:{free_port()}" for _ in range(2))
    async with ServerChild(folder / "data", folder / "server.log", listen=listen, http=http) as server:
        return await beside(_restart(server), _show(plan, server, wishes, pace))


async def _restart(server: ServerChild) -> NoReturn:
    """Restart the server whenever it ends. Raises ServerFailed if it does not become ready."""
    while True:
        code = await server.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        print(f"the server ended by {how}; starting it again on the same data", file=sys.stderr, flush=True)
        await server.start()


async def _show(plan: Plan, server: ServerChild, wishes: Wishes, pace: float) -> int:
    """Stream the series, score the forecasts, and print the report."""
    _announce(plan, server, wishes, pace)
    scorers, errors, moment = plan.scorers(), Errors(plan), Moment(plan.rows // 2)
    with progress("streaming", plan.all_rows) as shown:

        def take(series: int, row: int, forecast: npt.NDArray[np.floating[Any]]) -> None:
            count(scorers[series], None, shown, row, forecast)
            if wishes.drifts:
                errors.add(series, row, forecast)
                moment.taken(row)

        target, paces = Remote(server.grpc), [Pace(pace) for _ in plan.entities] if pace else []
        async with _watched(target, moment, wishes.drifts):
            observed = await replay_all(target, MODEL, names(plan), plan, STALENESS, take, paces)
    scraped = await scrape(server.http, MODEL)
    report = await asyncio.to_thread(service_report, plan, scorers, observed, scraped)
    print()
    code = finish(report, wishes.json, STALENESS)
    recovery = await asyncio.to_thread(_recovery, plan, errors, moment) if wishes.drifts else None
    if recovery is not None and wishes.json is not None:
        mapping = report.to_mapping() | {"drift": recovery.to_mapping()}
        wishes.json.write_text(json.dumps(mapping, indent=1) + "\n", encoding="utf-8")
    await _close(report, observed, server, wishes, recovery.lines() if recovery else [])
    return code


def _announce(plan: Plan, server: ServerChild, wishes: Wishes, pace: float) -> None:
    page = f"http://{server.http}/"
    print(f"watch it learn: {page}", flush=True)
    print(f"freshet serves on {server.grpc}; its metrics are on {page}metrics", flush=True)
    what = "half-hours of New York taxi rides"
    many = len(plan.entities)
    shown = f"{plan.rows:,} {what}" if many == 1 else f"{plan.rows:,} half-hours of {many} zones of a city"
    at = f", {pace:g} a second{' each' if many > 1 else ''}" if pace else ""
    print(f"streaming {shown} through it{at}\n", flush=True)
    if wishes.opens:
        open_page(page)


@contextlib.asynccontextmanager
async def _watched(target: Remote, moment: Moment, needed: bool) -> AsyncIterator[None]:
    """Run the moment's watch beside the block, if it is needed."""
    if not needed:
        yield
        return
    watching = asyncio.create_task(moment.watch(target))
    try:
        yield
        await moment.settled()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def _recovery(plan: Plan, errors: Errors, moment: Moment) -> Recovery:
    still = frozen(plan, moment.weights) if moment.weights else None
    return Recovery.of(errors.by_row, still, moment.drifts)


async def _close(report: Report, observed: Observed, server: ServerChild, wishes: Wishes, found: Sequence[str]) -> None:
    """Print the last lines; with `keeps`, return on a signal."""
    if observed.reconnects:
        print(f"{'reconnects':<12}{observed.reconnects}, with {observed.lost} answers lost")
    ended = asyncio.Event()
    if wishes.keeps:  # own handlers, because a shell's background job starts with SIGINT ignored
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
    print("\n" + closing(report, server, wishes.keeps, found), flush=True)
    if wishes.keeps:
        await ended.wait()
