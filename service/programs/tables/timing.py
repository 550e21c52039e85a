"""The columns with the time of a row, and the times in them: one column, or a date and its hour in several."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.programs.tables.names import listed
from service.programs.tables.numbers import is_number
from service.programs.tables.table import Table
from service.programs.tables.times.moments import clock, day_number
from service.programs.tables.times.numeric_times import FORMS, looks_like_times, read_numeric
from service.programs.tables.times.times import DAY_S, HOUR_S, Times, is_moment, read_texts
from service.programs.tables.words import is_missing

TIMELIKE = {
    "time", "times", "timestamp", "stamp", "date", "datetime", "ts", "epoch", "unix", "unixtime", "zeit", "datum",
    "year",
}  # fmt: skip
HOURS = {"hour", "hours", "hr", "hrs", "he", "hour ending", "hour_ending", "hourending", "stunde", "uhrzeit", "heure"}
MOST_HOURS = 30  # some files count past 24 when summer time ends; such a cell is refused, not read as a value
PARTS = ("year", "month", "day", "hour", "minute", "second")
SHORT = {"yr": "year", "mo": "month", "mon": "month", "dy": "day", "hr": "hour", "min": "minute", "sec": "second"}


@dataclass(frozen=True, slots=True)
class Asked:
    """Options for times. form: a key of FORMS, or "" for text; None detects it. words: for missing values."""

    form: str | None = None
    day_first: bool | None = None
    words: Collection[str] = ()


def is_timelike(name: str) -> bool:
    """Return whether a column's name has a word for time."""
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    return not TIMELIKE.isdisjoint(words) and len(words) <= 3


def find_time_columns(table: Table, asked: Asked) -> tuple[str, ...]:
    """Return the columns with the time of a row; empty if there are none.

    These are the first column whose first cell is a date, with the first column of hours or times of day if the dates
    have none; else columns named year, month, day; else a column that is named as a time and whose numbers can only be
    times.
    """
    for name, cells in zip(table.header, table.columns, strict=True):
        first = next((cell for cell in cells if not is_missing(cell, asked.words)), "")
        if not is_number(first) and is_moment(first):
            beside = _clock_column(table, name, asked) if _is_bare(cells, asked) else None
            return (name,) if beside is None else (name, beside)
    if parts := _parts(table):
        return parts
    for name, cells in zip(table.header, table.columns, strict=True):
        plainly = looks_like_times(cells) if is_timelike(name) else ""
        if plainly and (plainly.startswith("Unix") or name.strip().lower() in TIMELIKE):
            beside = _clock_column(table, name, asked) if all(len(cell) == 8 for cell in cells) else None
            return (name,) if beside is None else (name, beside)
    return ()


def read_times(table: Table, columns: Sequence[str], asked: Asked) -> Times | tuple[int, str, str]:
    """Return the times in one column, or in several joined; or row and column of an invalid cell, and the remedy."""
    for column in columns:
        for n, cell in enumerate(table.cells(column)):
            if is_missing(cell, asked.words):
                return n, column, "missing time: fill it in or leave the row out"
    if len(columns) == 1:
        found = _read_one(table.cells(columns[0]), columns[0], asked)
        return found if isinstance(found, Times) else (found[0], columns[0], found[1])
    if is_parts(columns):
        return _join_parts(table, columns)
    dated, hours = columns[0], columns[1]
    if _are_clocks(table.cells(dated)) and not _are_clocks(table.cells(hours)):
        dated, hours = hours, dated
    seconds = _hours(table, hours)
    if isinstance(seconds, tuple):
        return seconds
    days = _read_one(table.cells(dated), dated, asked, seconds)
    if not isinstance(days, Times):
        return days[0], dated, days[1]
    return _join(table, days, hours, seconds)


def _read_one(
    cells: Sequence[str], name: str, asked: Asked, beside: NDArray[np.float64] | None = None
) -> Times | tuple[int, str]:
    if asked.form in FORMS or (asked.form is None and all(map(is_number, cells))):
        wrong = next((n for n, cell in enumerate(cells) if not is_number(cell)), None)
        return read_numeric(cells, asked.form, name) if wrong is None else (wrong, f"not a number: not {asked.form}")
    if all(clock(cell) is not None for cell in cells):
        return 0, "a time of day without its date: name the date's column too, --time DATE,TIME"
    return read_texts(cells, asked.day_first, beside)


def _is_bare(cells: Sequence[str], asked: Asked) -> bool:
    """Return whether dates have no time of day, judged by their length, which a time of day doubles."""
    return all(len(cell) <= 11 or ":" not in cell for cell in cells if not is_missing(cell, asked.words))


def _clock_column(table: Table, dated: str, asked: Asked) -> str | None:
    """Return the column that holds the hours or times of day of a column of dates."""
    for name, cells in zip(table.header, table.columns, strict=True):
        known = [cell for cell in cells if not is_missing(cell, asked.words)]
        if name != dated and known and (_are_clocks(known) or (_is_hours(name) and _are_hours(known))):
            return name
    return None


def _are_clocks(cells: Sequence[str]) -> bool:
    return all(not is_number(cell) and clock(cell) is not None for cell in cells)


def _is_hours(name: str) -> bool:
    return " ".join(name.lower().split()) in HOURS


def _are_hours(cells: Sequence[str]) -> bool:
    return all(is_number(cell) and 0 <= float(cell) <= MOST_HOURS for cell in cells)


def _hours(table: Table, column: str) -> NDArray[np.float64] | tuple[int, str, str]:
    """Return the seconds of the day (N,) in a column of hours or times of day; hour 24 is the end of the day."""
    cells = table.cells(column)
    seconds = np.empty(len(cells))
    numbers = all(map(is_number, cells))
    for n, cell in enumerate(cells):
        found = HOUR_S * float(cell) if numbers else clock(cell)
        if found is None or not 0 <= found <= DAY_S:
            return n, column, "no hour of a day: write 0 to 24, or a time such as 17:30"
        seconds[n] = found
    return seconds


def _join(table: Table, days: Times, hours: str, seconds: NDArray[np.float64]) -> Times | tuple[int, str, str]:
    """Join days with their hours or times of day in another column."""
    if days.bare is not None and not days.bare.all():
        return int(np.flatnonzero(~days.bare)[0]), hours, "its date has a time of day already: name that column alone"
    cells = table.cells(hours)
    numbers = all(map(is_number, cells))
    span = f"hour {min(map(float, cells)):g} to {max(map(float, cells)):g}" if numbers else "a time of day"
    return Times(days.seconds + seconds, days.utc, f"{days.form} with {span} beside it")


def is_parts(columns: Sequence[str]) -> bool:
    """Return whether columns are the parts of a date, year first."""
    return all(map(_part, columns)) and _part(columns[0]) == "year"


def _part(name: str) -> str:
    """Return the part of a date that a column's name names, or ""."""
    lowered = name.strip().lower()
    return lowered if lowered in PARTS else SHORT.get(lowered, "")


def _parts(table: Table) -> tuple[str, ...]:
    """Return columns named year, month, day, hour …, as many as there are; empty without the first three."""
    found = {_part(name): name for name in reversed(table.header) if _part(name)}
    names = []
    for part in PARTS:
        if part not in found:
            break
        names.append(found[part])
    if len(names) < 3 or not all(is_number(table.cells(name)[0]) for name in names):
        return ()
    return tuple(names)


def _join_parts(table: Table, columns: Sequence[str]) -> Times | tuple[int, str, str]:
    lowest = {"year": 1, "month": 1, "day": 1}
    most = {"year": 9999, "month": 12, "day": 31, "hour": 24, "minute": 59, "second": 60 - 1e-6}
    values: dict[str, NDArray[np.float64]] = {}
    for column in columns:
        part = _part(column)
        made = np.empty(len(table))
        for n, cell in enumerate(table.cells(column)):
            whole = is_number(cell) and (part == "second" or float(cell) % 1 == 0)
            if not whole or not lowest.get(part, 0) <= float(cell) <= most[part]:
                return n, column, f"no {part}: write a whole number of {lowest.get(part, 0)} to {most[part]:g}"
            made[n] = float(cell)
        values[part] = made
    months, dates = values.get("month", np.ones(len(table))), values.get("day", np.ones(len(table)))
    seconds = np.empty(len(table))
    for n, (year, month, day) in enumerate(
        zip(values["year"].astype(int), months.astype(int), dates.astype(int), strict=True)
    ):
        found = day_number(int(year), int(month), int(day))
        if found is None:
            return n, columns[min(2, len(columns) - 1)], "there is no such day: correct it"
        seconds[n] = found * DAY_S
    for part, unit in (("hour", HOUR_S), ("minute", 60.0), ("second", 1.0)):
        seconds += unit * values.get(part, np.zeros(len(table)))
    return Times(seconds, False, f"{listed(columns)} joined", np.full(len(table), "hour" not in values))
