"""Columns of numbers: decimal marks, thousands separators and percent signs, detected from whole columns."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from service.programs.tables.table import Table
from service.programs.tables.words import is_missing

POINT, COMMA = ".", ","
SPACES = " \u00a0\u202f\u2009'’"  # between groups of three digits
_TAIL = r"([eE][+-]?\d+)?"
_GROUPED = {
    ".": re.compile(rf"[+-]?[1-9]\d{{0,2}}(?P<s>[,{SPACES}])\d{{3}}((?P=s)\d{{3}})*(\.\d*)?"),
    ",": re.compile(rf"[+-]?[1-9]\d{{0,2}}(?P<s>[.{SPACES}])\d{{3}}((?P=s)\d{{3}})*(,\d*)?"),
}
_COMMA = re.compile(rf"[+-]?(\d+(,\d*)?|,\d+){_TAIL}")
SPREAD = 30.0  # a reading whose values spread over a range this many times narrower is the likely one


@dataclass(frozen=True, slots=True)
class Numbers:
    """A column as numbers. values: (N,) float64, NaN where missing. note: how it was read; empty if as usual."""

    values: NDArray[np.float64]
    note: str = ""


def is_number(cell: str) -> bool:
    """Return whether a cell is a plain number with a decimal point, or an infinity; 1_000 is not one."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell and not is_missing(cell)


def number(cell: str, decimal: str) -> float | None:
    """Return the value of a cell with this decimal mark, with or without thousands separators; None for other text."""
    cell = cell.replace("\u2212", "-")
    if decimal == POINT and is_number(cell):
        return float(cell)
    if decimal == COMMA and _COMMA.fullmatch(cell):
        return float(cell.replace(",", "."))
    if _GROUPED[decimal].fullmatch(cell):
        plain = re.sub(rf"[{',' if decimal == POINT else '.'}{SPACES}]", "", cell)
        return float(plain.replace(",", "."))
    return None


def plain_numbers(cells: Sequence[str]) -> NDArray[np.float64] | None:
    """Return the values (N,) of plain finite numbers; None if any cell is something else. The fast path."""
    try:
        values = np.array(list(map(float, cells)))
    except ValueError:
        return None
    return values if np.isfinite(values).all() and "_" not in "".join(cells) else None


class NumberReader:
    """Reader for columns of numbers of one table.

    words: additional words for a missing value. decimal: the decimal mark; None detects it from the column, then from
    the table's other columns, then from its separator.
    """

    def __init__(self, table: Table, words: Collection[str] = (), decimal: str | None = None) -> None:
        self.table, self.words, self.decimal = table, words, decimal

    def read(self, column: str) -> Numbers | tuple[int, str]:
        """Return a column's numbers, or the first row that is not a number and the reason."""
        cells = self.table.cells(column)
        if self.decimal != COMMA and not self.words and (values := plain_numbers(cells)) is not None:
            if self.decimal is None and _groups_of_points(cells):
                everywhere = range(len(cells))
                if self._shown == COMMA or _narrower(cells, everywhere) == COMMA:
                    return _as(cells, everywhere, COMMA, "points read as thousands")
            return Numbers(values)
        rows = [n for n, cell in enumerate(cells) if not is_missing(cell, self.words)]
        bare, percent = _without_percent(cells, rows)
        if not isinstance(percent, bool):
            return percent, "some cells of the column have a percent sign and others none: write all alike"
        found = self._mark(bare, rows)
        if not isinstance(found, str):
            return found
        notes = ("in percent" if percent else "", _how(bare, rows, found))
        return _as(bare, rows, found, ", ".join(note for note in notes if note))

    @cached_property
    def _shown(self) -> str | None:
        """The decimal mark that is certain from the table's columns; None if no column is certain, or they differ."""
        marks = set()
        for cells in self.table.columns:
            if plain_numbers(cells) is not None:
                if any("." in cell for cell in cells) and not _groups_of_points(cells):
                    marks.add(POINT)
                continue
            here = [cell.removesuffix("%").rstrip() for cell in cells if not is_missing(cell, self.words)]
            good = [mark for mark in (POINT, COMMA) if here and all(number(cell, mark) is not None for cell in here)]
            if len(good) == 1 and any(c in cell for cell in here for c in ".,"):
                marks.add(good[0])
        return marks.pop() if len(marks) == 1 else None

    def _mark(self, cells: Sequence[str], rows: Sequence[int]) -> str | tuple[int, str]:
        """Return the decimal mark of a column, or the first row that is not a number and the reason."""
        marks = [mark for mark in (POINT, COMMA) if self.decimal in (None, mark)]
        wrong = {mark: next((n for n in rows if number(cells[n], mark) is None), None) for mark in marks}
        good = [mark for mark in marks if wrong[mark] is None]
        if len(good) == 1:
            return good[0]
        if not good:
            return self._no_number(cells, rows, wrong)
        commas = next((n for n in rows if "," in cells[n]), None)
        if commas is None:
            points = _groups_of_points([cells[n] for n in rows])
            return self._shown or _narrower(cells, rows) or POINT if points else POINT
        found = self._shown or self._of_commas([cells[n] for n in rows])
        return found or (commas, "thousands or a decimal comma? Give --decimal point or --decimal comma")

    def _of_commas(self, cells: Sequence[str]) -> str | None:
        """Return the mark of cells whose commas all precede three digits; None if both readings are likely."""
        if all("," in cell for cell in cells):
            return COMMA if self.table.separator == ";" else None
        # Whole numbers rule out a fixed number of decimals, and a general format writes no trailing zeros.
        if any("," in cell and cell.endswith("0") for cell in cells):
            return POINT
        return POINT if _narrower(cells, range(len(cells))) == POINT else None

    def _no_number(self, cells: Sequence[str], rows: Sequence[int], wrong: dict[str, int | None]) -> tuple[int, str]:
        """Return the first row that is not a number with the likelier mark, and the reason."""
        mark = max(wrong, key=lambda mark: sum(number(cells[n], mark) is not None for n in rows))
        row = wrong[mark]
        assert row is not None
        other = COMMA if mark == POINT else POINT
        if self.decimal is None and number(cells[row], other) is not None:
            return (
                row,
                f"not a number beside others of the column, whose decimal mark is {_named(mark)}: write all alike",
            )
        return row, "not a number"


def _as(cells: Sequence[str], rows: Iterable[int], decimal: str, note: str) -> Numbers:
    values = np.full(len(cells), math.nan)
    for n in rows:
        value = number(cells[n], decimal)
        values[n] = math.nan if value is None else value
    return Numbers(values, note)


def _without_percent(cells: Sequence[str], rows: Sequence[int]) -> tuple[Sequence[str], bool | int]:
    """Return the cells without percent signs and whether they had them, or the first row that differs."""
    marked = [cells[n].endswith("%") for n in rows]
    if not any(marked):
        return cells, False
    if not all(marked):
        return cells, rows[marked.index(not marked[0])]
    return [cell.removesuffix("%").rstrip() for cell in cells], True


def _groups_of_points(cells: Sequence[str]) -> bool:
    """Return whether plain numbers could also be whole numbers with points as thousands separators."""
    return any("." in cell for cell in cells) and all(number(cell, COMMA) is not None for cell in cells)


def _narrower(cells: Sequence[str], rows: Sequence[int]) -> str | None:
    """Return the mark with which the numbers spread much less than with the other; None if there is no such mark."""
    spread = {}
    for mark in (POINT, COMMA):
        sizes = [abs(number(cells[n], mark) or 0.0) for n in rows]
        sizes = [size for size in sizes if size]
        spread[mark] = max(sizes) / min(sizes) if sizes else 1.0
    if spread[POINT] * SPREAD < spread[COMMA]:
        return POINT
    return COMMA if spread[COMMA] * SPREAD < spread[POINT] else None


def _how(cells: Sequence[str], rows: Sequence[int], mark: str) -> str:
    if mark == COMMA and any("," in cells[n] for n in rows):
        return "decimal comma"
    grouped = next((cells[n] for n in rows if _GROUPED[mark].fullmatch(cells[n].replace("\u2212", "-"))), None)
    return f"thousands apart ({grouped})" if grouped and not is_number(grouped) else ""


def _named(mark: str) -> str:
    return "a point" if mark == POINT else "a comma"
