"""Columns of numeric times: Unix times in four units, dates as digits, and day numbers of spreadsheets."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from service.programs.tables.times.moments import day_number
from service.programs.tables.times.times import DAY_S, Problem, Times

# A unit applies if it puts every time between 1973 and 5138; seconds also before.
UNITS = (("nanoseconds", 1e9, 1e17), ("microseconds", 1e6, 1e14), ("milliseconds", 1e3, 1e11), ("seconds", 1.0, 0.0))
UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
DIGITS = {  # formats by number of digits
    14: "yyyymmddhhmmss", 12: "yyyymmddhhmm", 10: "yyyymmddhh", 8: "yyyymmdd", 6: "yyyymm",
}  # fmt: skip
FIRST_YEAR, LAST_YEAR = 1900, 2100  # of digits that are read as a date
FROM_S, TO_S = (
    6.3e8,
    4.2e9,
)  # 1990 to 2103: range in which numbers may be times whatever the column's name
EXCEL_EPOCH = 25_569  # the day number of 1970-01-01
FIRST_EXCEL, LAST_EXCEL = 29_221, 65_746  # 1980 to 2079
_WHOLE = re.compile(r"\d+(\.0*)?")
ROUND_S = (0.001, 1.0, 60.0, 3600.0)


def read_numeric(cells: Sequence[str], form: str | None = None, name: str = "") -> Times | Problem:
    """Read a column of numbers as times, or return the first invalid row and the remedy.

    form: one of FORMS; None detects it from all cells: years, then digits, then Excel's day numbers, then Unix times.
    name: of the column; numbers are read as years only if it contains "year".
    """
    values = np.array(list(map(float, cells)))
    if not np.isfinite(values).all():
        return int(np.flatnonzero(~np.isfinite(values))[0]), "not a time: write it as 2014-07-01 00:30:00"
    if form is not None:
        return FORMS[form](cells, values)
    if "year" in name.lower() and all(_WHOLE.fullmatch(c) and 1500 <= float(c) <= LAST_YEAR for c in cells):
        return _years(values)
    widths = {len(cell) for cell in cells}
    if len(widths) == 1 and (width := widths.pop()) in DIGITS and all(map(str.isdecimal, cells)):
        found = _digits(cells, DIGITS[width])
        if isinstance(found, Times):
            return found
    if ((values >= FIRST_EXCEL) & (values <= LAST_EXCEL)).all():
        return _excel(cells, values)
    return _unix(cells, values)


def _unix(cells: Sequence[str], values: np.ndarray) -> Times | Problem:
    """Return Unix times in the one unit that fits all of them."""
    size = np.abs(values)
    for n, (unit, _, least) in enumerate(UNITS):
        if (size >= least).all():
            most = UNITS[n - 1][2] if n else np.inf
            larger = np.flatnonzero(size >= most)
            if len(larger):
                return int(larger[0]), f"is not in {unit}, as the times before are: write all in one unit"
            return _in_unit(cells, values, unit)
    raise AssertionError("seconds have no least value")


def _in_unit(cells: Sequence[str], values: np.ndarray, unit: str) -> Times:
    per_second = next(per for name, per, _ in UNITS if name == unit)
    seconds = values / per_second
    if unit == "nanoseconds" and all(map(str.isdecimal, cells)):  # float64 alone would round to 256 of them
        seconds = np.array([int(cell) // 10**9 + int(cell) % 10**9 / 1e9 for cell in cells])
    return Times(seconds, True, f"Unix {unit}")


def _digits(cells: Sequence[str], form: str) -> Times | Problem:
    made = np.empty(len(cells))
    for n, cell in enumerate(cells):
        text = cell.split(".")[0]
        parts = [int(text[4 + i : 6 + i] or 0) for i in range(0, 10, 2)] if len(text) == len(form) else []
        if not parts or not text.isdecimal():
            return n, f"not {form}"
        month, day, hour, minute, second = parts
        found = day_number(int(text[:4]), month, day if len(form) > 6 else 1)
        seconds = 3600 * hour + 60 * minute + second
        if (
            found is None
            or not FIRST_YEAR <= int(text[:4]) <= LAST_YEAR
            or minute > 59
            or second > 59
            or seconds > DAY_S
        ):
            return n, f"there is no such moment in {form}"
        made[n] = found * DAY_S + seconds
    return Times(made, False, form, np.full(len(cells), len(form) <= 8))


def _excel(cells: Sequence[str], values: np.ndarray) -> Times:
    """Return day numbers as times, rounded to the precision of their digits: 44197.04167 is one o'clock."""
    seconds = (values - EXCEL_EPOCH) * DAY_S
    decimals = max(len(cell.partition(".")[2]) if "e" not in cell.lower() else 9 for cell in cells)
    known = DAY_S * 10.0**-decimals
    step = float(np.median(np.abs(np.diff(seconds)))) if len(seconds) > 1 else 0.0
    unit = next((unit for unit in ROUND_S if unit >= known / 2), ROUND_S[-1])
    if decimals and step >= 2 * unit:
        seconds = np.round(seconds / unit) * unit
    return Times(seconds, False, "Excel day numbers", np.full(len(cells), bool((values % 1 == 0).all())))


def _years(values: np.ndarray) -> Times:
    days = [day_number(int(year), 1, 1) or 0 for year in values]
    return Times(np.array(days) * DAY_S, False, "years", np.ones(len(values), bool))


Reader = Callable[[Sequence[str], np.ndarray], Times | Problem]


def _reader_of_unit(unit: str) -> Reader:
    return lambda cells, values: _in_unit(cells, values, unit)


def _reader_of_digits(form: str) -> Reader:
    return lambda cells, _: _digits(cells, form)


FORMS: dict[str, Reader] = {
    **{short: _reader_of_unit(unit) for short, unit in UNIT_NAMES.items()},
    **{form: _reader_of_digits(form) for form in DIGITS.values()},
    "excel": _excel,
}


def looks_like_times(cells: Sequence[str]) -> str:
    """Return the form of numbers that can be read as times after 1990 and do not decrease; empty for others."""
    try:
        values = np.array(list(map(float, cells)))
    except ValueError:
        return ""
    if not np.isfinite(values).all() or not (np.diff(values) >= 0).all():
        return ""
    found = read_numeric(cells)
    if not isinstance(found, Times) or not ((found.seconds >= FROM_S) & (found.seconds < TO_S)).all():
        return ""
    return found.form


def could_be_unix(values: np.ndarray) -> bool:
    """Return whether a column's values (N,) could be Unix times, in any unit: rising, and from 1990 to 2103."""
    if len(values) < 2 or not (np.diff(values) >= 0).all() or values[0] == values[-1]:
        return False
    first, last = float(values[0]), float(values[-1])
    return any(first / per >= FROM_S and last / per < TO_S for _, per, _ in UNITS)
