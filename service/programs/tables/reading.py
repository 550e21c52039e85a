"""From a file to a recording: its table, the times of its rows in UTC, and their order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import tzinfo
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.common.limits import MAX_TIME_S
from service.programs.tables.layout import lay_out
from service.programs.tables.names import chosen, listed, quoted
from service.programs.tables.numbers import is_number
from service.programs.tables.options import DEFAULT, Options
from service.programs.tables.recording import Entity, Recording
from service.programs.tables.table import Table
from service.programs.tables.text import read_text
from service.programs.tables.times.errors import TableError
from service.programs.tables.times.order import Order, put_in_order
from service.programs.tables.times.times import Times
from service.programs.tables.times.zones import each_to_utc, to_utc, zone_of
from service.programs.tables.timing import Asked, find_time_columns, is_parts, read_times
from service.programs.tables.words import own_words


def read(path: str | Path, options: Options = DEFAULT) -> Recording:
    """Read a file. Raises TableError if its content is invalid or ambiguous, OSError if it cannot be read."""
    zone = None if options.zone is None else zone_of(options.zone)
    text, encoding = read_text(path)
    table = lay_out(text, encoding, options.mark, options.header)
    asked = Asked(options.time_format, options.day_first, own_words(options.missing))
    columns = _time_columns(table, options, asked)
    if options.id is not None and options.id not in table.header:
        raise TableError("id", options.id, table.no_such(options.id))
    groups = _groups(table, options.id)
    if not columns:
        if zone is not None:
            raise TableError("zone", str(options.zone), "the file has no column of times: name it with --time")
        return Recording(table, options, (), "", tuple(Entity(name, rows, None) for name, rows in groups))
    found = read_times(table, columns, asked)
    if not isinstance(found, Times):
        raise table.refuse(found[0], found[1], found[2])
    if zone is not None and (found.utc or found.zones is not None):
        raise TableError(
            "zone",
            str(options.zone),
            f"the times of {listed(columns)} have their own zone ({found.form}): leave it out",
        )
    entities = []
    for name, rows in groups:
        time = _in_utc(table, columns[0], rows, found, zone)
        entities.append(Entity(name, rows, _ordered(table, columns[0], rows, time, options)))
    return Recording(table, options, tuple(columns), found.form, tuple(entities), _zone_name(options, found))


def _zone_name(options: Options, times: Times) -> str:
    """Return the name of the zone of all times; empty if it is an offset, or if there are several zones."""
    names = {options.zone or ""} if times.zones is None else set(times.zones)
    return names.pop() if len(names) == 1 else ""


def _time_columns(table: Table, options: Options, asked: Asked) -> tuple[str, ...]:
    if options.time is None:
        columns = find_time_columns(table, asked)
        return tuple(name for name in columns if name != options.id)
    columns = tuple(chosen(options.time, table.header))
    for name in columns:
        if name not in table.header:
            raise TableError("column", name, table.no_such(name))
    if len(columns) > 2 and not is_parts(columns):
        raise TableError("time", options.time, "give one column, a date and its hour, or year, month, day and on")
    return columns


def _groups(table: Table, id_column: str | None) -> list[tuple[str, NDArray[np.intp]]]:
    """Return the rows of each entity, in order of first occurrence. Raises TableError for one with a single row."""
    if id_column is None:
        return [("", np.arange(len(table)))]
    rows: dict[str, list[int]] = {}
    for n, name in enumerate(table.cells(id_column)):
        rows.setdefault(name, []).append(n)
    for name, mine in rows.items():
        if not name:
            raise table.refuse(mine[0], id_column, "no id: fill it in or leave the row out")
        if len(mine) < 2:
            raise table.refuse(mine[0], id_column, "the only row of its entity: need at least 2, leave it out")
    return [(name, np.array(mine, np.intp)) for name, mine in rows.items()]


def _in_utc(
    table: Table, column: str, rows: NDArray[np.intp], times: Times, zone: tzinfo | None
) -> NDArray[np.float64]:
    local = times.seconds[rows]
    wrong = np.flatnonzero(~(np.abs(local) <= MAX_TIME_S))
    if len(wrong):
        raise table.refuse(
            int(rows[wrong[0]]), column, f"no time that a tick can have: at most {MAX_TIME_S:g} s from 1970"
        )
    made: NDArray[np.float64] | tuple[int, str] = local
    if times.zones is not None:
        made = each_to_utc(local, [times.zones[row] for row in rows])
    elif zone is not None:
        made = to_utc(local, zone)
    if isinstance(made, tuple):
        raise table.refuse(int(rows[made[0]]), column, made[1])
    return made


def _ordered(table: Table, column: str, rows: NDArray[np.intp], time: NDArray[np.float64], options: Options) -> Order:
    found = put_in_order(time, options.sort, options.duplicates)
    if isinstance(found, tuple):
        row, remedy = found
        remedy = "; ".join(part for part in (*_causes(table, column, rows, time, row, options), remedy) if part)
        before = table.cells(column)[rows[row - 1]]
        raise table.refuse(int(rows[row]), column, f"does not come after {before} in the row before: {remedy}")
    if len(found.time) < 2:
        raise TableError("rows", len(found.time), "need at least 2 rows of different times")
    return found


def _causes(
    table: Table, column: str, rows: NDArray[np.intp], time: NDArray[np.float64], row: int, options: Options
) -> list[str]:
    """Return likely causes in the table of a time that does not come after the one before."""
    made = []
    if re.fullmatch(r"[\d.]+[eE]\+?\d+", table.cells(column)[rows[row]]):
        made.append("a spreadsheet has cut its digits: export the column as whole numbers")
    if options.id is None:
        by = next((name for name in table.header if name != column and _names_entities(table.cells(name), time)), None)
        made += [f"one series for each {quoted(by)}? Give --id {quoted(by)}"] if by is not None else []
    return made


def _names_entities(cells: Sequence[str], time: NDArray[np.float64]) -> bool:
    """Return whether words in a column divide the rows into series that are each in order."""
    last: dict[str, float] = {}
    if any(is_number(cell) for cell in cells[:100]):
        return False
    for cell, now in zip(cells, time.tolist(), strict=True):
        if last.get(cell, -np.inf) >= now:
            return False
        last[cell] = now
    return 1 < len(last) <= len(cells) / 2
