"""Reading a recorded series from a CSV file: values, event times, and a clear refusal of what cannot be replayed."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.errors import Invalid
from service.sequence import MAX_MAGNITUDE

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-"})
A_TIME = "2014-07-01 00:30:00"  # as one may be written
MONTH_FIRST = ("%m/%d/%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%m/%d/%Y")  # as spreadsheets write it: 1/31/2010 0:00


class SeriesError(Invalid):
    """The file cannot be replayed as it is. `field` names the row and column, `value` the cell, `remedy` what to do."""


@dataclass(frozen=True, slots=True)
class Series:
    """A recorded multivariate series, as the file has it.

    names: of the C value columns, in the file's order or the one asked for; x: (N, C) float32, finite, or NaN for a
    missing value where those were allowed;
    time: (N,) float64 seconds since 1970-01-01 UTC, strictly increasing, or None without a time column;
    interval: the median step between rows in seconds, 0 without a time column.
    """

    names: tuple[str, ...]
    x: NDArray[np.float32]
    time: NDArray[np.float64] | None
    interval: float


def read_series(
    path: str | Path, time_column: str | None = None, columns: Sequence[str] | None = None, holds: bool = False
) -> Series:
    """Read a CSV file with a header row, UTF-8, comma-separated.

    time_column: None finds it: the first column whose first cell is a date (ISO 8601, or month/day/year). When named,
    it may also hold numbers, seconds since 1970. A time without a zone is taken as UTC.
    columns: which value columns, in this order; None is all but the time column. holds: missing values become NaN.
    Raises SeriesError for anything missing, not a number, not finite or out of order; OSError if unreadable.
    """
    table = read_table(path)
    time_column = table.find_time_column() if time_column is None else time_column
    names = tuple(name for name in table.header if name != time_column) if columns is None else tuple(columns)
    for name in names if time_column is None else (time_column, *names):
        if name not in table.header:
            raise SeriesError("column", name, f"no such column: the file has {', '.join(table.header)}")
    if time_column in names:
        raise SeriesError("columns", time_column, "that is the time column: leave it out of the value columns")
    if not any(is_number(cell) or is_missing(cell) for name in names for cell in table.cells(name)):
        raise SeriesError("columns", ", ".join(names), "there is no numeric column: name one that holds numbers")
    x = np.stack([table.numbers(name, holds) for name in names], axis=1, dtype=np.float32, casting="same_kind")
    if time_column is None:
        return Series(names, x, None, 0.0)
    time = table.times(time_column)
    return Series(names, x, time, float(np.median(np.diff(time))))


@dataclass(frozen=True, slots=True)
class Table:
    """The cells of a CSV file as text, stripped. lines: where in the file each row ends, counted from 1."""

    header: list[str]
    rows: list[list[str]]
    lines: list[int]

    def cells(self, column: str) -> list[str]:
        """One column, top to bottom."""
        index = self.header.index(column)
        return [row[index] for row in self.rows]

    def find_time_column(self) -> str | None:
        """The first column whose first cell is a date; a bare number such as 20140701 is a value."""
        first = zip(self.header, self.rows[0], strict=True)
        return next((name for name, cell in first if not is_number(cell) and date(cell)), None)

    def numbers(self, column: str, holds: bool) -> NDArray[np.float64]:
        """A column as (N,) finite numbers that a model takes; with `holds`, NaN where one is missing."""
        cells = self.cells(column)
        for n, cell in enumerate(cells):
            if is_missing(cell):
                if holds:
                    continue
                remedy = 'missing value: fill it in, leave the row or the column out, or say missing = "hold"'
                raise self.refuse(n, column, remedy)
            if not is_number(cell):
                raise self.refuse(n, column, f"not a number: correct it, {self._numeric()}or write a time as {A_TIME}")
            if not abs(float(cell)) <= MAX_MAGNITUDE:
                raise self.refuse(n, column, f"need a finite number of at most {MAX_MAGNITUDE:g}: correct it")
        return np.array([math.nan if is_missing(cell) else float(cell) for cell in cells])

    def times(self, column: str) -> NDArray[np.float64]:
        """A column as (N,) seconds since 1970-01-01 UTC that increase strictly."""
        cells = self.cells(column)
        time = np.empty(len(cells))
        for n, cell in enumerate(cells):
            moment = date(cell)
            if is_missing(cell):
                raise self.refuse(n, column, "missing time: fill it in or leave the row out")
            if moment is None and not is_number(cell):
                raise self.refuse(n, column, f"not a time: write it as {A_TIME}")
            time[n] = float(cell) if is_number(cell) or moment is None else moment.timestamp()
            if not math.isfinite(time[n]) or (n and time[n] <= time[n - 1]):
                remedy = f"does not come after {cells[n - 1]} in the row before: sort the rows, drop repeated times"
                raise self.refuse(n, column, remedy)
        return time

    def _numeric(self) -> str:
        """How to leave out what holds no numbers, judged by the first row; nothing where that would leave nothing."""
        found = [name for name, cell in zip(self.header, self.rows[0], strict=True) if is_number(cell)]
        return f"say --columns {','.join(found)}, " if found else ""

    def refuse(self, row: int, column: str, remedy: str) -> SeriesError:
        """The error that points at one cell."""
        return SeriesError(f"row {row} (line {self.lines[row]}), column {column}", self.cells(column)[row], remedy)


def read_table(path: str | Path) -> Table:
    """A file's cells; blank lines are left out. Checked: unique names, at least two rows, all of one length."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            read = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SeriesError("file", str(path), f"not a CSV file in UTF-8 ({error}): convert it first") from None
    if len(read) < 3:
        raise SeriesError("rows", max(0, len(read) - 1), "need a header and at least 2 rows of values")
    (_, header), *rest = read
    if ";" in header[0]:
        raise SeriesError("header", header[0], "the cells are separated by ;: write commas, and points in numbers")
    if all(map(is_number, header)) and not all(map(str.isdecimal, header)):  # 0,1,2 are names that programs give
        raise SeriesError("header", ", ".join(header), "numbers, no names: put a line of column names above the rows")
    table = Table(header, [row for _, row in rest], [line for line, _ in rest])
    name, count = Counter(header).most_common(1)[0]
    if count > 1:
        raise SeriesError("header", name, f"{count} columns have that name: give each its own")
    for line, row in rest:
        if len(row) != len(header):
            remedy = f"the header has {len(header)}: complete the row, and quote cells that hold commas"
            raise SeriesError(f"line {line}, number of cells", len(row), remedy)
    return table


def date(cell: str) -> datetime | None:
    """The moment a cell names, in UTC unless it says otherwise; None if it names none."""
    moment = None
    try:
        moment = datetime.fromisoformat(cell)
    except ValueError:
        for form in MONTH_FIRST if "/" in cell else ():
            try:
                moment = datetime.strptime(cell, form)
                break
            except ValueError:
                continue
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def is_missing(cell: str) -> bool:
    """Whether a cell is empty or one of the usual words for nothing."""
    return cell.lower() in MISSING


def is_number(cell: str) -> bool:
    """Whether a cell is a number, infinities included; 1_000 is Python's, not a file's."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell and not is_missing(cell)
