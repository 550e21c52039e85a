"""Prediction intervals of a replay: how many values were inside, and their width beside a rolling quantile's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from service.programs.backtest.scoring import Scorer

Array = npt.NDArray[np.floating[Any]]

PARTS = 4  # quarters of the scored rows
WINDOW = 500  # errors of the rolling quantile
LEAST = 20  # errors that it needs
EVERY = 10  # rows from one rolling quantile to the next: it costs more than the forecast


@dataclass(frozen=True, slots=True)
class Level:
    """One level's intervals over the scored rows. Widths are means, in z-units of the train rows."""

    level: float
    inside: float  # share of values, all rows
    quarters: tuple[float, ...]
    width: float
    rolling_width: float  # of the quantile of the last errors of the same forecasts, over the same rows


class Bounded(Protocol):
    """Something that takes a series' forecasts with their bounds, as `Coverage` does."""

    def add(self, row: int, forecast: Array, lower: Array, upper: Array) -> None:
        """Take the forecasts (horizon, targets) made at one row, and their bounds (levels, horizon, targets)."""
        ...


class Coverage:
    """Counts one series' values inside their intervals, and the widths, as forecasts come in order of rows."""

    def __init__(self, scorer: Scorer, levels: Sequence[float]) -> None:
        self._scorer, self.asked = scorer, levels
        self._truth = scorer.truth.astype(np.float64)
        n, outputs = WINDOW + scorer.horizon, len(scorer.targets)
        self._errors = np.full((n, scorer.horizon, outputs), np.nan)  # ring by origin
        self.inside = np.zeros((len(levels), PARTS))
        self.values = np.zeros(PARTS)
        self.widths = np.zeros((len(levels), 2))  # sums: ours, the rolling quantile's
        self.compared = 0

    def add(self, row: int, forecast: Array, lower: Array, upper: Array) -> None:
        """Count the forecasts made at one row. forecast: (horizon, targets); lower, upper: (levels, horizon, targets).

        Values without bounds, at a stream's first ticks, do not count.
        """
        scorer, rows = self._scorer, len(self._truth)
        self._compare(row, lower, upper)
        last = min(scorer.horizon, rows - 1 - row)
        errors = np.full(forecast.shape, np.nan)
        errors[:last] = np.abs(forecast[:last] - self._truth[row + 1 : row + 1 + last])
        self._errors[row % len(self._errors)] = errors
        steps = scorer.steps(row)
        if not steps:
            return
        part = slice(steps.start - 1, steps.stop - 1)
        targets = np.arange(row + steps.start, row + steps.stop)
        truth = self._truth[targets]
        known = ~(np.isnan(truth) | np.isnan(lower[0, part]))
        quarter = (targets - scorer.score_from) * PARTS // (scorer.score_to - scorer.score_from)
        np.add.at(self.values, quarter, known.sum(axis=1))
        hit = (lower[:, part] <= truth) & (truth <= upper[:, part]) & known
        for n in range(len(self.asked)):
            np.add.at(self.inside[n], quarter, hit[n].sum(axis=1))

    def _compare(self, row: int, lower: Array, upper: Array) -> None:
        """Add the widths at this row to the sums, if the rolling quantile is known for every output."""
        scorer = self._scorer
        if row % EVERY or row < scorer.score_from or row < LEAST + scorer.horizon or row >= scorer.score_to:
            return
        origins = row - np.arange(1, scorer.horizon + 1) - np.arange(WINDOW)[:, None]  # labels that have come
        seen = self._errors[origins % len(self._errors), np.arange(scorer.horizon)]
        seen[origins < 0] = np.nan
        if (np.isfinite(seen).sum(axis=0) < LEAST).any() or np.isnan(lower).any():
            return
        self.compared += 1
        for n, level in enumerate(self.asked):
            rolling = 2 * np.nanquantile(seen, level, axis=0)
            self.widths[n] += ((upper[n] - lower[n]) / scorer.unit).mean(), (rolling / scorer.unit).mean()

    @staticmethod
    def levels(each: Sequence[Coverage]) -> tuple[Level, ...]:
        """Return the levels over all series."""
        inside, values, widths = (sum(getattr(one, name) for one in each) for name in ("inside", "values", "widths"))
        compared = sum(one.compared for one in each)
        with np.errstate(invalid="ignore", divide="ignore"):
            shares, whole, mean = inside / values, inside.sum(axis=1) / values.sum(), widths / np.float64(compared)
        return tuple(
            Level(level, float(whole[n]), tuple(shares[n].tolist()), float(mean[n, 0]), float(mean[n, 1]))
            for n, level in enumerate(each[0].asked)
        )
