"""The order of rows in time: sorting, times that repeat, and gaps."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Duplicates = Literal["refuse", "last", "mean"]
GAP_INTERVALS = 1.5  # a longer step of event time is a gap: rows between are missing
SET_BACK_S = 3600.0  # the clock is set back by this when summer time ends


@dataclass(frozen=True, slots=True)
class Order:
    """How rows of a file become rows of a series. rows: (N,) of the file, stably sorted by time.

    starts: (M,) position in `rows` where each distinct time starts. time: (M,) strictly increasing seconds.
    """

    rows: NDArray[np.intp]
    starts: NDArray[np.intp]
    time: NDArray[np.float64]
    how: Duplicates = "refuse"

    def apply(self, values: NDArray[np.float64], mean: bool = True) -> NDArray[np.float64]:
        """Return columns [N, …] in order, [M, …], one row per time: the mean or the last of its known values."""
        ordered: NDArray[np.float64] = values[self.rows]
        if len(self.starts) == len(ordered):
            return ordered
        counts = np.diff([*self.starts, len(ordered)])
        made: NDArray[np.float64] = ordered[self.starts].copy()
        for group in np.flatnonzero(counts > 1):
            part = ordered[self.starts[group] : self.starts[group] + counts[group]]
            made[group] = _mean(part) if mean and self.how == "mean" else _last(part)
        return made

    @property
    def first_rows(self) -> NDArray[np.intp]:
        """(M,) the row of the file that became each row of the series; of several, the last."""
        ends = np.append(self.starts[1:], len(self.rows)) - 1
        made: NDArray[np.intp] = self.rows[ends]
        return made


def _mean(part: NDArray[np.float64]) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # if all values of a group are missing, NaN is right
        made: NDArray[np.float64] = np.nanmean(part, axis=0)
    return made


def _last(part: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the last row, with each missing value replaced by the last known one before it."""
    made: NDArray[np.float64] = part[-1].copy()
    for row in part[-2::-1]:
        made = np.where(np.isnan(made), row, made)
    return made


def put_in_order(time: NDArray[np.float64], sort: bool, how: Duplicates) -> Order | tuple[int, str]:
    """Return the order of rows with these times, or the first row that is out of order and the remedy.

    Without `sort`, rows must be in order, except those that repeat an earlier time.
    """
    rows = np.argsort(time, kind="stable")
    ordered = time[rows]
    new = np.r_[True, np.diff(ordered) > 0]
    if not new.all() and how == "refuse":
        wrong = _first_wrong(time, sort)
        return wrong, _remedy(time, wrong, sort)
    if not sort and not _rises(time, how):
        wrong = _first_wrong(time, False) if how == "refuse" else _first_unsorted(time)
        return wrong, _remedy(time, wrong, sort)
    starts = np.flatnonzero(new)
    return Order(rows, starts, ordered[starts], how)


def _rises(time: NDArray[np.float64], how: Duplicates) -> bool:
    return bool((np.diff(time) > 0).all()) if how == "refuse" else _first_unsorted(time) < 0


def _first_unsorted(time: NDArray[np.float64]) -> int:
    """Return the first row whose time is before an earlier row's and is not a repetition; -1 if there is none."""
    seen: set[float] = set()
    latest = -np.inf
    for n, one in enumerate(time.tolist()):
        if one < latest and one not in seen:
            return n
        seen.add(one)
        latest = max(latest, one)
    return -1


def _first_wrong(time: NDArray[np.float64], sort: bool) -> int:
    """Return the first row whose time is not after the row before; with `sort`, the first that repeats a time."""
    if not sort:
        return int(np.flatnonzero(np.diff(time) <= 0)[0]) + 1
    seen: set[float] = set()
    for n, one in enumerate(time.tolist()):
        if one in seen:
            return n
        seen.add(one)
    raise AssertionError("only asked where a time repeats")


def _remedy(time: NDArray[np.float64], row: int, sort: bool) -> str:
    """Return remedies for a row out of order, the most likely first."""
    steps = np.diff(time)
    if not sort and (steps < 0).all():
        return "the rows run from the newest to the oldest: give --sort"
    ways = []
    if _set_back(time, row):
        zone = "give --zone, such as Europe/Berlin, or write offsets"
        ways.append(f"a clock set back as summer time ends repeats an hour: {zone}")
    if not sort and -12.5 * 3600 <= steps[row - 1] <= -10 * 3600:
        ways.append("a clock of 12 hours without AM and PM: write them, or 24 hours")
    if (steps == 0).sum() > len(time) / 4:
        ways.append("a date without its hour: if a column has it, name both, --time DATE,HOUR")
    if len(np.unique(time)) < len(time):
        ways.append("for repeated times give --duplicates last or --duplicates mean")
    if (steps < 0).any() and not sort:
        ways.append("to sort the rows give --sort")
    return "; ".join(ways)


def _set_back(time: NDArray[np.float64], row: int) -> bool:
    """Return whether a row repeats an hour at night on a Sunday in spring or autumn, when clocks are set back."""
    back = time[row - 1] - time[row]
    moment = datetime.fromtimestamp(float(time[row]), UTC) if abs(time[row]) < 2.5e11 else None
    return (
        moment is not None
        and 0 <= back <= SET_BACK_S
        and moment.weekday() == 6
        and moment.hour <= 3
        and moment.month in (3, 4, 9, 10, 11)
    )


@dataclass(frozen=True, slots=True)
class Gaps:
    """Steps of event time that are longer than usual. row: after the longest step; interval: the usual step."""

    count: int
    longest: float
    row: int
    interval: float


def find_gaps(time: NDArray[np.float64], interval: float) -> Gaps | None:
    """Return the gaps in increasing times; None if there are none."""
    steps = np.diff(time)
    longer = np.flatnonzero(steps > GAP_INTERVALS * interval)
    if not len(longer):
        return None
    worst = int(longer[np.argmax(steps[longer])])
    return Gaps(len(longer), float(steps[worst]), worst + 1, interval)
