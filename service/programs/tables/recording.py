"""A file that was read: its series by entity, columns as numbers, and a line that describes how it was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.common.dates import as_date
from service.common.limits import MAX_MAGNITUDE
from service.programs.tables.names import chosen, listed, quoted
from service.programs.tables.numbers import NumberReader, is_number, number
from service.programs.tables.options import DECIMALS, Options
from service.programs.tables.separators import SEPARATORS
from service.programs.tables.table import Table
from service.programs.tables.times.errors import TableError, printable
from service.programs.tables.times.order import Order, find_gaps
from service.programs.tables.timing import is_timelike
from service.programs.tables.words import is_missing, own_words

HOLD = 'missing value: fill it in, leave the row or the column out, or give missing = "hold" (--set missing=hold)'


@dataclass(frozen=True, slots=True)
class Entity:
    """The rows of one series in a file. name: in the id column, "" without one; rows: (N,) of the table.

    order: of these rows by time; None without times, when they keep the file's order.
    """

    name: str
    rows: NDArray[np.intp]
    order: Order | None

    @property
    def time(self) -> NDArray[np.float64] | None:
        """(M,) seconds since 1970-01-01 UTC, strictly increasing; None without times."""
        return None if self.order is None else self.order.time

    def apply(self, values: NDArray[np.float64], mean: bool = True) -> NDArray[np.float64]:
        """Return this series' rows [M, …] of the table's columns [N, …]; see `Order.apply`."""
        mine = values[self.rows]
        return mine if self.order is None else self.order.apply(mine, mean)


@dataclass(frozen=True, slots=True)
class Recording:
    """A file that was read, its times in order. time_columns: may be empty; form: how the times are written.

    zone: name of the one zone in which they are written; "" for UTC, an offset, several zones, or none given.
    entities: one, or one for each id, in order of first occurrence.
    """

    table: Table
    options: Options
    time_columns: tuple[str, ...]
    form: str
    entities: tuple[Entity, ...]
    zone: str = ""
    notes: list[str] = field(default_factory=list)  # how columns of numbers were read

    @property
    def value_columns(self) -> list[str]:
        """All columns except those of the time and of the entity."""
        return [name for name in self.table.header if name not in (*self.time_columns, self.options.id)]

    @property
    def interval(self) -> float:
        """The median step between rows in seconds, 0 without times."""
        steps = [np.diff(entity.time) for entity in self.entities if entity.time is not None]
        joined = np.concatenate(steps) if steps else np.zeros(0)
        return float(np.median(joined)) if len(joined) else 0.0

    def choose(self, columns: str | Sequence[str] | None) -> list[str]:
        """Return the value columns in a list as users write it, or in names; None means all. Raises TableError."""
        header = self.table.header
        names = (
            self.value_columns if columns is None
            else chosen(columns, header) if isinstance(columns, str) else list(columns)
        )  # fmt: skip
        for name in names:
            if name not in header:
                raise TableError("column", name, self.table.no_such(name))
            if name in self.time_columns:
                raise TableError("columns", name, "that is the time column: leave it out of the value columns")
        return names

    def numbers(self, names: Sequence[str], holds: bool, remedy: str = "") -> NDArray[np.float64]:
        """Return columns as [N, C] finite numbers, with `holds` NaN where one is missing.

        remedy: for a cell that is not a number; empty suggests other columns. Raises TableError, which names the first
        invalid cell.
        """
        reader = self._reader()
        made = np.empty((len(self.table), len(names)))
        for c, name in enumerate(names):
            made[:, c] = self._column(reader, name, holds, remedy)
        if remedy:
            return made
        missing = int(np.isnan(made).sum())
        self.notes.append(f"{missing:,} values missing" if missing else "none missing")
        return made

    def any_number(self, names: Sequence[str]) -> bool:
        """Return whether any cell of these columns is a number or missing."""
        words = own_words(self.options.missing)
        marks = tuple(DECIMALS.values())
        return any(
            is_missing(cell, words) or any(number(cell.removesuffix("%").rstrip(), mark) is not None for mark in marks)
            for name in names
            for cell in self.table.cells(name)
        )

    def first_text(self, names: Sequence[str]) -> str:
        """Return a description of the first cell of these columns."""
        table = self.table
        separator = SEPARATORS.get(table.separator, repr(table.separator))
        where = f"row 0 (line {table.lines[0]}), column {quoted(names[0])}"
        spaced = "; if spaces separate the cells, give --separator ' '" if " " in table.header[0] else ""
        return f"; {where} has {table.cells(names[0])[0]!r}, where the cells are {separator}-separated{spaced}"

    def _column(self, reader: NumberReader, name: str, holds: bool, remedy: str) -> NDArray[np.float64]:
        found = reader.read(name)
        if isinstance(found, tuple):
            row, why = found
            if why == "not a number" and is_timelike(name) and not self.time_columns:
                why = "not a time: write it as 2014-07-01 00:30:00, or leave the column out"
            elif why == "not a number":
                why += f": {remedy or f'correct it, {self._numeric(name)}or write a time as 2014-07-01 00:30:00'}"
            raise self.table.refuse(row, name, why)
        values = found.values
        bad = np.flatnonzero(~(np.abs(values) <= MAX_MAGNITUDE))
        for row in bad.tolist():
            if not np.isnan(values[row]):
                raise self.table.refuse(row, name, f"need a finite number of at most {MAX_MAGNITUDE:g}: correct it")
            if not holds:
                raise self.table.refuse(row, name, HOLD)
        if found.note:
            self.notes.append(f"{quoted(name)} {found.note}")
        return values

    def _reader(self) -> NumberReader:
        options = self.options
        decimal = None if options.decimal is None else DECIMALS[options.decimal]
        return NumberReader(self.table, own_words(options.missing), decimal)

    def _numeric(self, wrong: str) -> str:
        """Return how to leave out a column without numbers; empty if that would leave no column."""
        reader = self._reader()
        found = [name for name in self.value_columns if name != wrong and not isinstance(reader.read(name), tuple)]
        if not found:
            return ""
        texts = set(self.table.cells(wrong))
        repeats = 2 * len(texts) <= len(self.table) and not any(map(is_number, texts))
        by_id = f"or --id {quoted(wrong)} if it names the entity of the row, "
        return f"give --columns {','.join(map(quoted, found))}, {by_id if repeats and self.options.id is None else ''}"

    def describe(self) -> str:
        """Return how the file was read, in one line: separator, time, zone, step, gaps, and what was left out."""
        table, options = self.table, self.options
        separator = SEPARATORS.get(table.separator, repr(table.separator))
        parts = [f"{separator}-separated {table.encoding}"]
        if self.time_columns:
            zone = options.zone or "UTC"
            parts.append(f"time from {listed(self.time_columns)}, {self.form}, {zone}, {self._span()}")
            parts.append(f"a row every {self.interval:.10g} s, {self._gaps()}")
        else:
            parts.append("no times")
        if options.id is not None:
            parts.append(f"{len(self.entities):,} entities by {quoted(options.id)}")
        return printable("read as " + "; ".join([*parts, *self._changed(), *table.notes, *self.notes]))

    def _span(self) -> str:
        times = [entity.time for entity in self.entities if entity.time is not None]
        first, last = min(time[0] for time in times), max(time[-1] for time in times)
        return f"{as_date(float(first))} to {as_date(float(last))}"

    def _gaps(self) -> str:
        found = [find_gaps(entity.time, self.interval) for entity in self.entities if entity.time is not None]
        gaps = [gap for gap in found if gap is not None]
        if not gaps:
            return "no gaps"
        return f"{sum(gap.count for gap in gaps):,} gaps of up to {max(gap.longest for gap in gaps):.10g} s"

    def _changed(self) -> list[str]:
        orders = [entity.order for entity in self.entities if entity.order is not None]
        sorted_rows = any((np.diff(order.rows) < 0).any() for order in orders)
        repeated = sum(len(order.rows) - len(order.time) for order in orders)
        notes = ["sorted by time"] if sorted_rows else []
        how = "their mean" if self.options.duplicates == "mean" else "the last"
        return [*notes, *([f"{repeated:,} rows repeat a time: {how} counts"] if repeated else [])]
