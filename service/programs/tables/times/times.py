"""Columns of times as text: the order of day and month is detected from the whole column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from service.programs.tables.times.moments import EPOCH, Moment, day_number, full_year, moment

AS_ISO = "write it as 2014-07-01 00:30:00"
DAY_FIRST, MONTH_FIRST, YEAR_FIRST = (2, 1, 0), (2, 0, 1), (0, 1, 2)  # places of year, month, day
FORMS = {DAY_FIRST: "day{0}month{0}year", MONTH_FIRST: "month{0}day{0}year", YEAR_FIRST: "year{0}month{0}day"}
HOUR_S, DAY_S = 3600.0, 86_400.0
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)
Problem = tuple[int, str]  # a row, and the remedy


@dataclass(frozen=True, slots=True)
class Times:
    """A column as times. seconds: (N,) float64 since 1970-01-01, in UTC if `utc`, otherwise in an unknown zone.

    form: description of how the cells are written. bare: (N,) whether a cell has no time of day.
    zones: name of the zone in each cell; None if the cells have none.
    """

    seconds: NDArray[np.float64]
    utc: bool
    form: str
    bare: NDArray[np.bool_] | None = None
    zones: Sequence[str] | None = None


def is_moment(cell: str) -> bool:
    """Return whether a cell names a moment or a day in text; a bare number such as 20140701 is a value."""
    return not cell.isdecimal() and (_iso(cell) is not None or moment(cell) is not None)


def _iso(cell: str) -> datetime | None:
    if cell.isdecimal():
        return None
    try:
        return datetime.fromisoformat(cell)
    except ValueError:
        return None


def read_texts(
    cells: Sequence[str], day_first: bool | None = None, beside: NDArray[np.float64] | None = None
) -> Times | Problem:
    """Read a column of times in text, or return the first invalid row and the remedy.

    day_first: order in dates such as 1/2/2021; None detects it from the whole column and refuses an ambiguous one.
    beside: (N,) seconds of the day in another column, used for the detection only.
    """
    return _all_iso(cells) or _mixed(cells, day_first, beside)


def _all_iso(cells: Sequence[str]) -> Times | None:
    """Return times if every cell is ISO 8601, all with an offset or all without. The fast path."""
    made = np.empty(len(cells))
    bare = np.zeros(len(cells), bool)
    aware = None
    for n, cell in enumerate(cells):
        found = _iso(cell)
        if found is None:
            return None
        if aware is None:
            aware = found.tzinfo is not None
        if aware != (found.tzinfo is not None):
            return None
        span = found - (_EPOCH_UTC if aware else EPOCH)
        made[n] = span.days * DAY_S + span.seconds + span.microseconds / 1e6
        bare[n] = len(cell) <= 10
    return Times(made, bool(aware), "year-month-day" if bare.all() else "ISO 8601", bare)


def _mixed(cells: Sequence[str], day_first: bool | None, beside: NDArray[np.float64] | None) -> Times | Problem:
    found: list[Moment] = []
    for n, cell in enumerate(cells):
        one = _of_iso(cell) or moment(cell)
        if one is None:
            return n, f"not a time: {AS_ISO}"
        found.append(one)
    first = found[0]
    for n, one in enumerate(found):
        if ("by place" in (one.order, first.order)) and one.order != first.order:
            return n, f"not written as the time in row 0 is, {cells[0]}: write all alike"
        if (one.offset is None and not one.zone) != (first.offset is None and not first.zone):
            return n, "some times of the column have a zone or an offset and others none: write all alike"
    clock = np.array([one.seconds or 0.0 for one in found]) if beside is None else beside
    days = _days(cells, found, day_first, clock)
    if not isinstance(days[0], np.ndarray):
        return days
    seconds = days[0] * DAY_S + np.array([one.seconds or 0.0 for one in found])
    offsets = np.array([one.offset or 0.0 for one in found])
    zones = [one.zone for one in found] if any(one.zone for one in found) else None
    bare = np.array([one.seconds is None for one in found])
    form = str(days[1]) + ("" if bare.all() else " and a time")
    return Times(seconds - offsets, first.offset is not None and zones is None, form, bare, zones)


def _of_iso(cell: str) -> Moment | None:
    """Return an ISO 8601 cell as a Moment; None for other text."""
    found = _iso(cell)
    if found is None:
        return None
    seconds = 3600 * found.hour + 60 * found.minute + found.second + found.microsecond / 1e6
    offset = found.utcoffset()
    return Moment(
        (found.year, found.month, found.day), "year first", "-", None if len(cell) <= 10 else seconds,
        None if offset is None else offset.total_seconds(),
    )  # fmt: skip


def _days(
    cells: Sequence[str], found: Sequence[Moment], day_first: bool | None, clock: NDArray[np.float64]
) -> tuple[NDArray[np.float64], str] | Problem:
    """Return the days since 1970 (N,) and how they are written, or the first invalid row and the remedy."""
    if found[0].order != "by place":
        form = "year-month-day" if found[0].order == "year first" else "month by name"
        return _in_order(cells, found, YEAR_FIRST, form)
    mark = found[0].mark
    orders = _possible(found, day_first)
    if not orders:
        return _no_order(cells, found, day_first)
    readings = {order: _in_order(cells, found, order, FORMS[order].format(mark))[0] for order in orders}
    chosen, why = _choose(readings, clock, mark)  # type: ignore[arg-type]
    if chosen is None:
        row = next(n for n, one in enumerate(found) if one.parts[0] != one.parts[1])
        return row, "day or month first? No row of the column decides it: give --day-first or --month-first"
    return readings[chosen], FORMS[chosen].format(mark) + why  # type: ignore[return-value]


def _possible(found: Sequence[Moment], day_first: bool | None) -> list[tuple[int, int, int]]:
    """Return the orders in which every cell is a valid day."""
    asked = {True: [DAY_FIRST], False: [MONTH_FIRST], None: [DAY_FIRST, MONTH_FIRST]}[day_first]
    if day_first is None and all(one.parts[2] < 100 for one in found) and any(one.parts[0] > 12 for one in found):
        asked.append(YEAR_FIRST)
    return [order for order in asked if all(_day(one, order) is not None for one in found)]


def _day(one: Moment, order: tuple[int, int, int]) -> int | None:
    year, month, day = (one.parts[place] for place in order)
    return day_number(full_year(year), month, day)


def _in_order(
    cells: Sequence[str], found: Sequence[Moment], order: tuple[int, int, int], form: str
) -> tuple[NDArray[np.float64], str] | Problem:
    made = np.empty(len(found))
    for n, one in enumerate(found):
        day = _day(one, order)
        if day is None:
            return n, f"there is no such day: correct it, or {AS_ISO}"
        made[n] = day
    return made, form


def _no_order(cells: Sequence[str], found: Sequence[Moment], day_first: bool | None) -> Problem:
    """Return the first row that is not a day in the order that fits most cells, and the remedy."""
    asked = {True: [DAY_FIRST], False: [MONTH_FIRST], None: [DAY_FIRST, MONTH_FIRST]}[day_first]
    likely = max(asked, key=lambda order: sum(_day(one, order) is not None for one in found))
    row = next(n for n, one in enumerate(found) if _day(one, likely) is None)
    form = FORMS[likely].format(found[0].mark)
    return row, f"not a day, where the column is read as {form}: correct it, or write all alike"


def _choose(
    readings: dict[tuple[int, int, int], NDArray[np.float64]], clock: NDArray[np.float64], mark: str
) -> tuple[tuple[int, int, int] | None, str]:
    """Return the order that the column determines, and the reason as text; None if it is ambiguous."""
    orders = list(readings)
    if len(orders) == 1:
        return orders[0], ""
    first = readings[orders[0]]
    if all(np.array_equal(first, days) for days in readings.values()):
        return (DAY_FIRST if mark == "." else MONTH_FIRST), ""
    steps = {order: np.diff(days * DAY_S + clock) for order, days in readings.items()}
    rising = [order for order, step in steps.items() if len(step) and (step > 0).all()]
    if len(rising) == 1:
        return rising[0], " (as only so the times increase)"
    if mark == "." and DAY_FIRST in readings:
        return DAY_FIRST, " (as dates with points are)"
    usual = {order: float(np.median(step)) for order, step in steps.items()}
    even = [order for order in rising if (steps[order] <= 1.5 * usual[order]).all()]
    if len(even) == 1 and usual[even[0]] < DAY_S:  # whole days may be every day, or the first of every month
        return even[0], " (as only so no rows are missing between)"
    return None, ""
