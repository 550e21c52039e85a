"""The tables of a report for people: errors by forecaster, the best marked."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import NamedTuple

from service.programs.backtest.tally import FIRST, Errors, Scores

LEAST_NAME = 12  # width of the column of names, at least
MARK = "*"


class Grid(NamedTuple):
    """A table of errors; the smallest of each marked column is the best."""

    title: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[float, ...]]  # by forecaster
    width: int  # of a column
    marked: bool  # whether the best is marked in plain text too; a terminal has colours


def overall(errors: Mapping[str, Errors]) -> Grid:
    """Return the table of both errors over the scored rows."""
    return Grid("", ("mse", "mae"), {name: (e.mse, e.mae) for name, e in errors.items()}, 10, marked=False)


def parts(forecasters: Mapping[str, Scores]) -> Grid:
    """Return the table of squared errors over the first rows, and of some steps if there is more than one."""
    horizon = max((len(scores.steps) for scores in forecasters.values()), default=1)
    steps = sorted({max(1, horizon * part // 4) for part in range(5)}) if horizon > 1 else []
    columns = (*(f"to {rows:,}" for rows in FIRST), *(f"step {step}" for step in steps))
    rows = {
        name: tuple(e.mse for e in (*scores.first, *(scores.steps[step - 1] for step in steps)))
        for name, scores in forecasters.items()
    }
    return Grid("mse", columns, rows, 9, marked=True)


def best_line(errors: Mapping[str, Errors]) -> str:
    """Return the forecaster with the smallest squared error and its distance to the next; empty with fewer than two."""
    finite = sorted((e.mse, place, name) for place, (name, e) in enumerate(errors.items()) if math.isfinite(e.mse))
    if len(finite) < 2:
        return ""
    (first, _, name), (second, _, other) = finite[:2]
    return f"{name}, {1 - first / second:.0%} below {other}" if first < second else f"{name} and {other}"


def show(grid: Grid) -> None:
    """Print a table on standard output: coloured on a terminal, otherwise plain."""
    best = [min(filter(math.isfinite, values), default=math.nan) for values in zip(*grid.rows.values(), strict=True)]
    if sys.stdout.isatty():
        _show_rich(grid, best)
    else:
        _show_plain(grid, best)


def _show_plain(grid: Grid, best: list[float]) -> None:
    names, space = max(LEAST_NAME, *map(len, grid.rows)), " " * grid.marked
    print(f"{grid.title:<{names}}" + "".join(f"{column:>{grid.width}}{space}" for column in grid.columns).rstrip())
    for name, values in grid.rows.items():
        marks = (MARK if grid.marked and value == least else space for value, least in zip(values, best, strict=True))
        cells = (f"{number(value):>{grid.width}}{mark}" for value, mark in zip(values, marks, strict=True))
        print(f"{name:<{names}}{''.join(cells)}".rstrip())


def number(value: float) -> str:
    """Return an error as text."""
    return f"{value:.4f}" if not abs(value) >= 1e3 else f"{value:.3g}"


def _show_rich(grid: Grid, best: list[float]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    columns = (Column(column, justify="right") for column in grid.columns)
    table = Table(grid.title, *columns, box=None, pad_edge=False)
    for name, values in grid.rows.items():
        cells = [
            f"[bold green]{number(value)}[/]" if value == least else number(value)
            for value, least in zip(values, best, strict=True)
        ]
        table.add_row(f"{name:<{LEAST_NAME}}", *cells)
    Console().print(table)
