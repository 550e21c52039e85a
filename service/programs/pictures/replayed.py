"""The picture of a backtest: forecasts and errors collected while it runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from service.programs.backtest.plan import Plan
from service.programs.backtest.report import Report
from service.programs.backtest.scoring import Scorer
from service.programs.pictures.panels import Followed, coverage_panel, error_panel, forecast_panels
from service.programs.pictures.summaries import best_of, tables_of, target_of
from service.programs.plots.figure import Figure

Forecast = npt.NDArray[np.floating[Any]]


class Replayed:
    """Collects a replay's forecasts: a `Watch` of the backtest.

    Of the first series and its first target it keeps the forecasts of step 1 and their bounds, of everything else sums:
    memory is a few numbers per row, and two bytes per row, series and forecaster.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        each = [plan.alone(series) for series in plan.entities]
        self._rows = max(one.rows for one in each)
        self._first = each[0].scorer()
        self._scorers: dict[tuple[str, int], Scorer] = {}
        self._each = each
        self.squared: dict[str, npt.NDArray[np.float64]] = {}  # by forecaster: squared errors of the forecasts of a row
        n, levels = each[0].rows, len(plan.spec.intervals)
        self.forecast = np.full(n, np.nan)
        self.low, self.high = (np.full((levels, n), np.nan) for _ in range(2))
        self.inside, self.known = np.zeros((levels, self._rows)), np.zeros(self._rows)

    def add(self, name: str, series: int, row: int, forecast: Forecast) -> None:
        """Take the forecast (horizon, targets) that a forecaster made at a row of a series."""
        scorer = self._scorers.get((name, series))
        if scorer is None:
            scorer = self._scorers[name, series] = self._each[series].scorer()
        before = float(scorer.tally.total[0])
        scorer.add(row, forecast)
        sums = self.squared.setdefault(name, np.zeros(self._rows))
        sums[row] += float(scorer.tally.total[0]) - before
        if name == "freshet" and series == 0 and row + 1 < len(self.forecast):
            self.forecast[row + 1] = forecast[0, 0]

    def bounds(self, series: int, row: int, lower: Forecast, upper: Forecast) -> None:
        """Take the bounds (levels, horizon, targets) of the forecast that the model made at a row of a series."""
        if series == 0 and row + 1 < len(self.forecast):
            self.low[:, row + 1], self.high[:, row + 1] = lower[:, 0, 0], upper[:, 0, 0]
        scorer = self._scorers.get(("freshet", series)) or self._each[series].scorer()
        steps = scorer.steps(row)
        if not steps:
            return
        part = slice(steps.start - 1, steps.stop - 1)
        truth = scorer.truth[row + steps.start : row + steps.stop]
        known = ~(np.isnan(truth) | np.isnan(lower[0, part]))
        self.known[row] += known.sum()
        self.inside[:, row] += ((lower[:, part] <= truth) & (truth <= upper[:, part]) & known).sum(axis=(1, 2))

    def sums(self, name: str) -> npt.NDArray[np.float64]:
        """Return a forecaster's running sums of squared errors (rows,), all series together, in z-units."""
        return np.cumsum(self.squared.get(name, np.zeros(self._rows)))

    def figure(self, report: Report) -> Figure:
        """Return what is drawn, with the numbers of the report."""
        plan, x, timed = self._plan, *self._moments()
        errors = {name: found.mse for name, found in report.errors.items()}
        sums = {name: self.sums(name) for name in errors if name in self.squared}
        panels = forecast_panels(self._followed())
        begin = max(0, self._first.score_from - 1)
        since = {name: values[begin:] for name, values in sums.items()}
        panels.append(error_panel(x[begin:], timed, since, errors, "squares of a standard deviation"))
        if plan.spec.intervals and self.known.any():
            panels.append(
                coverage_panel(x[begin:], timed, plan.spec.intervals, self.inside[:, begin:], self.known[begin:])
            )
        spec, several = plan.spec, len(plan.entities)
        what = f"{several} series" if several > 1 else target_of(plan)
        summary = f"{plan.all_rows:,} rows of {what}, {spec.cell} of {spec.hidden}, horizon {spec.horizon}. "
        return Figure("Backtest", summary + best_of(errors), panels, tables_of(report, sums))

    def _moments(self) -> tuple[npt.NDArray[np.float64], bool]:
        """Return x of every row, and whether it is time: of one series, if it has times."""
        plan = self._plan
        if plan.series.time is None or plan.others:
            return np.arange(self._rows, dtype=np.float64), False
        return plan.times[: self._rows], True

    def _followed(self) -> Followed:
        plan, n = self._plan, len(self.forecast)
        timed = plan.series.time is not None
        x = plan.times[:n] if timed else np.arange(n, dtype=np.float64)
        pairs = zip(plan.spec.intervals, self.low, self.high, strict=True)
        bounds = sorted(((level, low, high) for level, low, high in pairs), key=lambda one: -one[0])
        truth = self._first.truth[:n, 0].astype(np.float64)
        scored = slice(self._first.score_from, self._first.score_to)
        return Followed(target_of(plan), x, timed, truth, self.forecast, scored, bounds)
