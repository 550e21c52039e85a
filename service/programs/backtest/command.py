"""`freshet backtest`: replay a recorded series, score the forecasts and the baselines', and report."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from service.common.errors import Invalid
from service.console.progress import Progress, progress
from service.console.remote import Remote
from service.programs.backtest import core, through_service
from service.programs.backtest.coverage import Coverage
from service.programs.backtest.plan import Plan
from service.programs.backtest.report import Quantiles, Report
from service.programs.backtest.scoring import ForecastFile, Scorer, Scores, Tally
from service.programs.backtest.scrape import Scraped
from service.programs.backtest.through_service import Observed

MOST_STREAMS = 256  # series of one replay through a server, which run side by side
Through = Literal["core", "service"]
Forecast = npt.NDArray[np.floating[Any]]


class Watch(Protocol):
    """Something that looks at a replay, such as a picture; it must not change what it is given."""

    def add(self, name: str, series: int, row: int, forecast: Forecast) -> None:
        """Take the forecast (horizon, targets) of a forecaster, in raw units, made at a row of a series."""
        ...

    def bounds(self, series: int, row: int, lower: Forecast, upper: Forecast) -> None:
        """Take the bounds (levels, horizon, targets) of the model's forecast of the same row, through the core."""
        ...


def backtest(
    plan: Plan,
    through: Through = "core",
    *,
    server: Remote | None = None,
    max_staleness: int = through_service.STALENESS,
    forecasts: Path | None = None,
    watch: Watch | None = None,
) -> Report:
    """Replay the plan's rows and return the scores. forecasts: CSV file for freshet's forecasts, written as they come.

    watch: is given every forecast, the baselines' too.

    Raises Invalid for a task other than forecast, OSError for the file; through the service also FreshetError,
    ServerFailed and Stalled.
    """
    if plan.spec.task != "forecast":
        raise Invalid("task", plan.spec.task, "a backtest replays forecasts: leave it out")
    if through == "service" and len(plan.entities) > MOST_STREAMS:
        remedy = f"through the service at most {MOST_STREAMS} series, each a call: --through core has no such bound"
        raise Invalid("id", f"{len(plan.entities)} entities", remedy)
    scorers = plan.scorers()
    with _kept(forecasts, scorers, plan) as keep:
        if through == "core":
            return _through_core(plan, scorers, keep, watch)
        with progress("freshet", plan.all_rows) as shown:

            def take(series: int, row: int, forecast: Forecast) -> None:
                count(scorers[series], keep, shown, row, forecast, series)
                if watch is not None:
                    watch.add("freshet", series, row, forecast)

            observed, scraped = asyncio.run(through_service.run_all(plan, server, max_staleness, take))
    return service_report(plan, scorers, observed, scraped, watch)


def _through_core(plan: Plan, scorers: Sequence[Scorer], keep: ForecastFile | None, watch: Watch | None) -> Report:
    learner, started = core.learner(plan), time.perf_counter()
    levels = plan.spec.intervals
    coverage = [Coverage(scorer, levels) for scorer in scorers] if levels else []
    bounded = coverage if watch is None else [_Seen(one, watch, n) for n, one in enumerate(coverage)]
    with progress("freshet", plan.all_rows) as shown:
        for series, row, forecast in core.every_forecast(learner, plan, bounded):
            count(scorers[series], keep, shown, row, forecast, series)
            if watch is not None:
                watch.add("freshet", series, row, forecast)
    wall_s = time.perf_counter() - started
    intervals = Coverage.levels(coverage) if coverage else ()
    mixture = learner.network.mixture_weights(learner.weights)
    updates = learner.counts.updates
    return _report(plan, scorers, watch, wall_s=wall_s, updates=updates, intervals=intervals, mixture=mixture)


class _Seen:
    """A series' coverage whose bounds a watch is given too."""

    def __init__(self, coverage: Coverage, watch: Watch, series: int) -> None:
        self._coverage, self._watch, self._series = coverage, watch, series

    def add(self, row: int, forecast: Forecast, lower: Forecast, upper: Forecast) -> None:
        self._coverage.add(row, forecast, lower, upper)
        self._watch.bounds(self._series, row, lower, upper)


def service_report(
    plan: Plan, scorers: Sequence[Scorer], observed: Observed, scraped: Scraped, watch: Watch | None = None
) -> Report:
    """Return the report of a replay through a server. The baselines run now, so that they did not slow it down."""
    return _report(
        plan,
        scorers,
        watch,
        wall_s=observed.wall_s,
        updates=scraped.updates,
        versions=observed.versions,
        vetoes=observed.vetoes,
        staleness=Quantiles.of(observed.staleness),
        freshness_s=scraped.freshness_s,
        latency_ms=Quantiles.of([1e3 * seconds for seconds in observed.latency_s]),
    )


def _report(plan: Plan, scorers: Sequence[Scorer], watch: Watch | None, **measured: Any) -> Report:
    scores = {"freshet": Scores.of([scorer.tally for scorer in scorers])} | baseline_scores(plan, watch)
    return Report(
        rows=plan.all_rows,
        scored=sum(scorer.scored for scorer in scorers),
        horizon=plan.spec.horizon,
        freshet=scores["freshet"].overall,
        persistence=scores["persistence"].overall,
        rls=scores["rls"].overall,
        forecasters=scores,
        **measured,
    )


def baseline_scores(plan: Plan, watch: Watch | None = None) -> dict[str, Scores]:
    """Return the baselines' errors over the same rows, by name; each series has its own baselines.

    One series is in work at a time, so that memory does not grow with their number.
    """
    tallies = {name: Tally(plan.spec.horizon) for name in core.baselines(plan)}
    with progress("baselines", plan.all_rows) as shown:
        for n, series in enumerate(plan.entities):
            alone = plan.alone(series)
            scorer, made = alone.scorer(), core.baselines(alone)
            running = [
                (name, scorer.again(), core.baseline_forecasts(baseline, alone)) for name, baseline in made.items()
            ]
            for row in range(alone.rows):
                for name, scores, forecasts in running:
                    scores.add(row, forecast := next(forecasts))
                    if watch is not None:
                        watch.add(name, n, row, forecast)
                shown.advance()
            for name, scores, _ in running:
                tallies[name].merge(scores.tally)
    return {name: Scores.of([tally]) for name, tally in tallies.items()}


def count(
    scorer: Scorer, keep: ForecastFile | None, shown: Progress, row: int, forecast: Forecast, series: int = 0
) -> None:
    """Score one forecast, write it to the file if there is one, and advance the progress."""
    scorer.add(row, forecast)
    if keep is not None:
        keep.add(row, forecast, series)
    shown.advance()


@contextlib.contextmanager
def _kept(path: Path | None, scorers: Sequence[Scorer], plan: Plan) -> Iterator[ForecastFile | None]:
    if path is None:
        yield None
    else:
        entities = [series.entity for series in plan.entities if series.entity]
        with ForecastFile(path, scorers, plan.spec.targets, entities) as file:
            yield file


def finish(report: Report, json: Path | None, max_staleness: int | None) -> int:
    """Print the report, write its JSON, and return the exit code: 1 if a forecast was staler than allowed."""
    report.show()
    if json is not None:
        report.write(json)
    largest = report.staleness.max
    if largest is not None and max_staleness is not None and largest > max_staleness:
        text = f"freshet: a forecast was {largest:.0f} labels stale, more than --max-staleness {max_staleness}"
        print(text, file=sys.stderr, flush=True)
        return 1
    return 0


def check_outputs(**paths: Path | None) -> None:
    """Refuse, before the work, output paths that cannot be written. Raises Invalid, which names the option."""
    for option, path in paths.items():
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise Invalid(option, str(path), "give a file in a folder that exists")
