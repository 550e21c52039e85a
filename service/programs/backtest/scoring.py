"""Scores of forecasts as they come, in z-units of the train rows, and a file of forecasts.

The z-units are for scoring only; forecasters read raw values.
"""

from __future__ import annotations

import copy
import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from service.common.errors import Invalid

Array = npt.NDArray[np.floating[Any]]
Sums = npt.NDArray[np.float64]

FIRST = (200, 1000)  # leading rows of a series whose errors are also summed by themselves, scored or not


class Tally:
    """Sums of squared errors, of absolute errors, and their number, of one forecaster.

    total: (3,) over the scored rows; first: (3, len(FIRST)) over the first rows; steps: (3, H) over the scored rows.
    """

    def __init__(self, horizon: int) -> None:
        self.total, self.first, self.steps = np.zeros(3), np.zeros((3, len(FIRST))), np.zeros((3, horizon))

    def add(self, error: Sums, known: npt.NDArray[np.bool_], row: int, scored: range) -> None:
        """Add the errors of one origin. error, known: (steps, channels), from step 1 on, in the order of the steps.

        row: the first target row. scored: the steps, counted from 1, whose target rows are scored.
        """
        picked = slice(scored.start - 1, scored.stop - 1)
        counted = error[picked][known[picked]]
        self.total += (float(np.vdot(counted, counted)), float(np.abs(counted).sum()), counted.size)
        if not scored and row >= FIRST[-1]:
            return
        clean = np.where(known, error, 0.0)
        each = np.stack([(clean * clean).sum(axis=1), np.abs(clean).sum(axis=1), known.sum(axis=1)])
        self.steps[:, picked] += each[:, picked]
        for place, rows in enumerate(FIRST):
            if row < rows:
                self.first[:, place] += each[:, : rows - row].sum(axis=1)

    def merge(self, other: Tally) -> None:
        """Add the sums of another forecaster of the same horizon."""
        self.total += other.total
        self.first += other.first
        self.steps += other.steps


@dataclass(frozen=True, slots=True)
class Errors:
    """Mean squared and mean absolute error, in z-units of the train rows."""

    mse: float
    mae: float

    @classmethod
    def of(cls, sums: Sums) -> Errors:
        """Return the means of sums (3,) of a `Tally`; NaN where nothing was counted."""
        squared, absolute, pairs = map(float, sums)
        return cls(squared / pairs, absolute / pairs) if pairs else cls(math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class Scores:
    """The errors of one forecaster: over the scored rows, over the first rows, and per horizon step."""

    overall: Errors
    first: tuple[Errors, ...]  # one for each of FIRST
    steps: tuple[Errors, ...]  # step 1 first

    @classmethod
    def of(cls, tallies: Sequence[Tally]) -> Scores:
        """Return the means over the values of every tally together."""
        whole = Tally(tallies[0].steps.shape[1])
        for tally in tallies:
            whole.merge(tally)
        first, steps = (tuple(map(Errors.of, sums.T)) for sums in (whole.first, whole.steps))
        return cls(Errors.of(whole.total), first, steps)

    def to_mapping(self) -> dict[str, Any]:
        """Return the errors for JSON; per step as two lists, step 1 first."""
        first = {f"first_{rows}": _named(errors) for rows, errors in zip(FIRST, self.first, strict=True)}
        steps = {"mse": [errors.mse for errors in self.steps], "mae": [errors.mae for errors in self.steps]}
        return _named(self.overall) | first | {"steps": steps}


def _named(errors: Errors) -> dict[str, Any]:
    return {"mse": errors.mse, "mae": errors.mae}


class Scorer:
    """Running errors of one forecaster on the target rows [score_from, score_to), rows counted from 0.

    `tally` also has the errors of the first rows before score_to, and those of each step.

    x: (N, C) the whole series in raw units, not copied; NaN is missing and not scored. targets: the forecast channels,
    None for all. Defaults: train_rows 20 % of the rows, score_from 25 %, score_to the end.
    The unit of a channel is its population standard deviation over the first train_rows rows. If that is 0, the unit is
    the standard deviation over all rows, or 1 for a channel that never changes; `constant` lists these channels.
    Raises Invalid if the rows do not fit the series.
    """

    def __init__(
        self,
        x: Array,
        train_rows: int | None = None,
        score_from: int | None = None,
        score_to: int | None = None,
        horizon: int = 1,
        targets: Sequence[int] | None = None,
    ) -> None:
        rows, channels = x.shape
        self.targets = tuple(range(channels) if targets is None else targets)
        self.train_rows = max(1, rows // 5) if train_rows is None else train_rows
        self.score_from = max(1, rows // 4) if score_from is None else score_from
        self.score_to = rows if score_to is None else score_to
        self.horizon = horizon
        check_between("horizon", horizon, 1, rows - 1)
        check_between("train_rows", self.train_rows, 1, rows)
        check_between("score_to", self.score_to, 2, rows)
        check_between("score_from", self.score_from, 1, self.score_to - 1)
        self.truth = x[:, list(self.targets)]
        self.unit, self.constant = z_units(self.truth, self.train_rows)
        self.tally = Tally(horizon)
        self._added, self._scored = np.zeros(rows, bool), np.zeros(rows, bool)

    def steps(self, origin_row: int) -> range:
        """Return the steps h in 1..horizon whose target row origin_row + h is scored."""
        first, last = self.score_from - origin_row, self.score_to - 1 - origin_row
        return range(max(1, first), min(self.horizon, last) + 1)

    def add(self, origin_row: int, forecast: Array) -> None:
        """Score the forecasts made at one row. forecast: (horizon, targets), raw units, only read.

        A forecast that is not finite makes both errors not finite. Raises ValueError for another shape or an origin
        that was scored before.
        """
        if forecast.shape != (self.horizon, len(self.targets)):
            raise ValueError(f"need a forecast ({self.horizon}, {len(self.targets)}), got {forecast.shape}")
        if self._added[origin_row]:
            raise ValueError(f"the forecast made at row {origin_row} was counted before")
        self._added[origin_row] = True
        steps, first = self.steps(origin_row), origin_row + 1
        ahead = min(self.horizon, self.score_to - first)
        if ahead < 1 or (not steps and first >= FIRST[-1]):
            return
        truth = self.truth[first : first + ahead]
        known = ~np.isnan(truth)
        self.tally.add((forecast[:ahead].astype(np.float64) - truth) / self.unit, known, first, steps)
        seen = known[steps.start - 1 : steps.stop - 1].any(axis=1)
        self._scored[origin_row + steps.start : origin_row + steps.stop] |= seen

    @property
    def mse(self) -> float:
        """Mean squared error over scored rows, steps and channels; NaN before the first."""
        return Errors.of(self.tally.total).mse

    @property
    def mae(self) -> float:
        """Mean absolute error over scored rows, steps and channels; NaN before the first."""
        return Errors.of(self.tally.total).mae

    def again(self) -> Scorer:
        """Return a new scorer of the same rows for another forecaster; it shares the series and the units."""
        other = copy.copy(self)
        other.tally = Tally(self.horizon)
        other._added, other._scored = np.zeros_like(self._added), np.zeros_like(self._scored)  # noqa: SLF001
        return other

    @property
    def scored(self) -> int:
        """Number of scored target rows; a row counts once, however many steps lead to it."""
        return int(self._scored.sum())


class ForecastFile:
    """Context manager that writes the scored forecasts of one forecaster as CSV, in the file's own units.

    scorers: one for each series; names: of the targets; entities: names of the series, empty for one series. With
    several series, the first column is `series`.

    With horizon 1, the columns are `row`, then `truth_c` and `forecast_c` per channel c. With a larger horizon, there
    is one line per origin and step, with `origin`, `step` and `row` before them. Rows are counted from 0, without the
    header.
    """

    def __init__(
        self, path: str | Path, scorers: Scorer | Sequence[Scorer], names: Sequence[str], entities: Sequence[str] = ()
    ) -> None:
        self._scorers = [scorers] if isinstance(scorers, Scorer) else list(scorers)
        self._entities = list(entities)
        self._kinds = [_kinds(scorer.truth) for scorer in self._scorers]
        scorer = self._scorers[0]
        if len(names) != len(scorer.targets):
            raise ValueError(f"need one name per target, {len(scorer.targets)}, got {len(names)}")
        self._file = open(path, "w", newline="", encoding="utf-8")  # noqa: SIM115 — closed by __exit__
        self._writer = csv.writer(self._file, lineterminator="\n")
        place: tuple[str, ...] = ("row",) if scorer.horizon == 1 else ("origin", "step", "row")
        place = ("series", *place) if entities else place
        self._writer.writerow([*place, *(f"{kind}_{name}" for name in names for kind in ("truth", "forecast"))])

    def add(self, origin_row: int, forecast: Array, series: int = 0) -> None:
        """Write the scored part of the forecasts made at one row. forecast: (horizon, targets), raw units."""
        scorer = self._scorers[series]
        for step in scorer.steps(origin_row):
            row = origin_row + step
            place: tuple[object, ...] = (row,) if scorer.horizon == 1 else (origin_row, step, row)
            place = (self._entities[series], *place) if self._entities else place
            pairs = zip(self._kinds[series], scorer.truth[row], forecast[step - 1], strict=True)
            texts = [str(kind(value)) for kind, *pair in pairs for value in pair]
            self._writer.writerow([*place, *texts])  # the shortest text that reads back as the same

    def __enter__(self) -> ForecastFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _kinds(truth: Array) -> list[type[np.floating[Any]]]:
    """Return the type in which each column is written: float32, unless it would lose digits of a float64 truth."""
    if truth.dtype != np.float64:
        return [np.float32] * truth.shape[1]
    lossy = (truth.astype(np.float32) != truth) & ~np.isnan(truth)
    return [np.float64 if lossy[:, c].any() else np.float32 for c in range(truth.shape[1])]


def z_units(truth: Array, train_rows: int) -> tuple[npt.NDArray[np.float64], tuple[int, ...]]:
    """Return the unit of each channel's errors, and the channels that are constant over the train rows (`Scorer`)."""
    unit = np.ones(truth.shape[1])
    for rows in (truth, truth[:train_rows]):
        # Not `std > 0`: the mean of equal numbers is rounded, so the deviation of a constant may not be exactly 0.
        moves = np.fmax.reduce(rows) - np.fmin.reduce(rows) > 0  # ignores missing values
        unit[moves] = np.nanstd(rows[:, moves].astype(np.float64), axis=0)
    return unit, tuple(int(c) for c in np.flatnonzero(~moves))


def check_between(field: str, value: int, low: int, high: int) -> None:
    """Raise Invalid unless low <= value <= high."""
    if not low <= value <= high:
        raise Invalid(field, value, f"need {low} to {high} for this file")
