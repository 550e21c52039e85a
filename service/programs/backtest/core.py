"""`--through core`: the trainer's learner, fed tick by tick, and the reference step. No storage, no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model import calendar
from model.fold.learner import Learner
from model.offline.baselines import Baseline, Held, Persistence
from model.offline.least_squares import RecursiveLeastSquares
from model.offline.seasonal import SeasonalLeastSquares, SeasonalNaive
from service.engine.export import read_weights
from service.programs.backtest.covariates import regressors
from service.programs.backtest.coverage import Bounded
from service.programs.backtest.plan import Plan
from service.programs.backtest.seasons import seasons

Forecast = npt.NDArray[np.floating[Any]]
Array64 = npt.NDArray[np.float64]


def learner(plan: Plan) -> Learner:
    """Return a new learner, with the plan's weights if it has any."""
    made = Learner(plan.spec)
    if plan.weights is not None:
        made.weights.flat[...] = read_weights(made.network, plan.weights)
    return made


def forecasts(learner: Learner, plan: Plan) -> Iterator[Forecast]:
    """Yield the forecasts of a plan of one series, (horizon, targets) per row; see `every_forecast`."""
    yield from (forecast for _, _, forecast in every_forecast(learner, plan))


def every_forecast(
    learner: Learner, plan: Plan, coverage: Sequence[Bounded] = ()
) -> Iterator[tuple[int, int, Forecast]]:
    """Replay the plan's rows in order of time: learn from each tick, then forecast with the new weights.

    Each series is a stream of the model. Yields (series, row, forecast), the forecast (horizon, targets) in raw units.
    No forecast depends on a later row. coverage: of each series, which counts the bounds of its forecasts.
    """
    network, spec = learner.network, plan.spec
    every = [plan.alone(series) for series in plan.entities]
    rows = [each.series.rows for each in every]
    read = [network.inputs(each.times, own) for each, own in zip(every, rows, strict=True)]
    state = [np.zeros((1, network.state_size), np.float32) for _ in every]
    tape = network.tape(1, 1)
    for n, row in in_time_order(every):
        (x, ahead), now = read[n], slice(row, row + 1)
        learner.ticks(np.full(1, n, np.uint32), np.array([row + 1], np.uint64), every[n].times[now], rows[n][now])
        y, state[n] = network.step(learner.weights, x[now], ahead[now], state[n], tape)
        made, added = y[:, : spec.outputs].reshape(spec.horizon, len(spec.targets)), every[n].added
        made = made if added is None else made + added
        if coverage:
            levels = y[0, spec.outputs :].reshape(2, len(spec.intervals), *made.shape)
            coverage[n].add(row, made, *(levels if added is None else levels + added))
        yield n, row, made


def in_time_order(plans: Sequence[Plan]) -> Iterator[tuple[int, int]]:
    """Yield (series, row) of every row by time; for equal times, and without times, the series take turns."""
    if len(plans) == 1:
        yield from ((0, row) for row in range(plans[0].rows))
        return
    series = np.concatenate([np.full(plan.rows, n) for n, plan in enumerate(plans)])
    rows = np.concatenate([np.arange(plan.rows) for plan in plans])
    untimed = plans[0].series.time is None
    times = rows if untimed else np.concatenate([plan.times[: plan.rows] for plan in plans])
    for place in np.lexsort((series, times)):
        yield int(series[place]), int(rows[place])


def baseline_forecasts(baseline: Baseline, plan: Plan) -> Iterator[Array64]:
    """Yield a baseline's forecasts of the same rows, (horizon, targets) per row, in raw units."""
    spec, added = plan.spec, plan.added
    ahead = calendar.inputs(plan.times, spec.interval, spec.zone, spec.holidays)
    local = calendar.local(plan.times, spec.zone)
    values = plan.series.values[: plan.rows, plan.spec.target_index]
    steps = regressors(spec, plan.series.sent)
    if steps.shape[2]:
        present = np.concatenate([np.zeros_like(steps[:1, 0]), steps[:-1, 0]])  # what the row before sent for this one
        ahead = np.concatenate([ahead, present, steps.reshape(len(steps), -1)], axis=1)
    for x, u, time in zip(values if added is None else values - added, ahead, local, strict=False):
        made = baseline.step(x, u, float(time))
        yield made if added is None else made + added


def baselines(plan: Plan) -> dict[str, Baseline]:
    """Return new baselines by name, the seasonal ones last, shortest season first.

    They read the target columns; least squares reads the calendar and the known inputs too. There are no seasonal ones
    without event times.
    """
    spec = plan.spec
    channels, horizon, known = len(spec.targets), spec.horizon, calendar.size(spec.interval, spec.holidays)
    periods, ahead = seasons(spec), regressors(spec, plan.series.sent).shape[2]

    def stepped(channels: int, seasons: Sequence[float]) -> Baseline:
        return SeasonalLeastSquares(channels, horizon, seasons, spec.interval, known=known + ahead, ahead=ahead)

    def rls(channels: int) -> Baseline:
        return stepped(channels, ()) if ahead else RecursiveLeastSquares(channels, horizon, known=known)

    def rls_seasonal(channels: int) -> Baseline:
        return stepped(channels, list(periods.values()))

    def held(make: Callable[[int], Baseline]) -> Baseline:
        return Held(lambda: make(1), channels, horizon) if spec.missing == "hold" else make(channels)

    made = {"persistence": held(lambda _: Persistence(horizon)), "rls": held(rls)}
    if periods:
        made["rls_seasonal"] = held(rls_seasonal)
    naives = {name: SeasonalNaive(channels, horizon, ticks, spec.interval) for name, ticks in periods.items()}
    return made | {f"naive_{name}": naive for name, naive in naives.items()}
