"""The result of a replay: JSON with the keys of the backtest's contract, and a table for people."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model.fold.errors import kept_steps
from service.console.shown import shares
from service.programs.backtest.coverage import Level
from service.programs.backtest.scoring import FIRST, Errors, Scores

FORECASTERS = ("freshet", "persistence", "rls")
SEASONAL = ("rls_seasonal", "naive_")  # how the names of seasonal baselines begin


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Quantiles of a measurement; None if nothing was measured."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Quantiles:
        """Return the quantiles of a sample."""
        if not len(values):
            return cls()
        p50, p95, p99, largest = np.percentile(np.asarray(values, np.float64), [50, 95, 99, 100])
        return cls(float(p50), float(p95), float(p99), float(largest))


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of a replay. None: not applicable to this way of replaying."""

    rows: int  # replayed
    scored: int  # target rows
    horizon: int
    freshet: Errors
    persistence: Errors
    rls: Errors
    forecasters: Mapping[str, Scores] = field(default_factory=dict)  # every one by name, freshet first
    updates: int | None = None
    versions: int | None = None  # published while it ran
    vetoes: int | None = None
    staleness: Quantiles = field(default_factory=Quantiles)  # labels received and not judged yet, per forecast
    freshness_s: Quantiles = field(default_factory=Quantiles)  # from a label on disk to judged weights in service
    latency_ms: Quantiles = field(default_factory=Quantiles)  # per message, at the client
    wall_s: float
    intervals: tuple[Level, ...] = ()  # of a model with intervals, through the core
    mixture: Mapping[str, float] = field(default_factory=dict)  # weights of its experts at the end, through the core

    def to_mapping(self) -> dict[str, Any]:
        """Return the JSON of the contract: exactly its keys, null if not applicable or not finite."""
        quantiles = {"staleness": ("p50", "p95", "max"), "freshness_s": ("p50", "p95"), "latency_ms": ("p50", "p99")}
        mapping = asdict(replace(self, forecasters={}, mixture=dict(self.mixture)))
        mapping["forecasters"] = {name: scores.to_mapping() for name, scores in self.forecasters.items()}
        for name in ("intervals", "mixture"):
            if not mapping[name]:
                del mapping[name]
        for name, kept in quantiles.items():
            mapping[name] = {quantile: mapping[name][quantile] for quantile in kept}
        return {name: _finite(value) for name, value in mapping.items()}

    def _interval(self, one: Level) -> tuple[str, str]:
        quarters = " ".join(f"{share:.1%}" for share in one.quarters)
        widths = f"width {one.width:.3f}, a rolling quantile's {one.rolling_width:.3f}"
        return f"{one.level:.4g} inside", f"{one.inside:.1%}, quarters {quarters}; {widths}"

    def write(self, path: Path) -> None:
        """Write the JSON. Raises OSError."""
        path.write_text(json.dumps(self.to_mapping(), indent=1) + "\n", encoding="utf-8")

    def facts(self) -> list[tuple[str, str]]:
        """Return everything applicable except the errors, as (name, text)."""
        stale, fresh, latency = self.staleness, self.freshness_s, self.latency_ms
        facts = [self._interval(one) for one in self.intervals]
        facts += [("mixture", shares(self.mixture))] if self.mixture else []
        facts += [("rows", f"{self.rows:,} replayed, {self.scored:,} scored, horizon {self.horizon}")]
        if self.updates is not None:
            facts.append(("updates", f"{self.updates:,}"))
        if self.versions is not None:
            facts.append(("versions", f"{self.versions:,} published, {self.vetoes} vetoed"))
        if stale.p50 is not None:
            facts.append(("staleness", f"{stale.p50:.0f} labels median, {stale.p95:.0f} p95, {stale.max:.0f} max"))
        if fresh.p50 is not None:
            facts.append(("freshness", f"{fresh.p50:.2f} s median, {fresh.p95:.2f} s p95, from disk to service"))
        if latency.p50 is not None:
            facts.append(("latency", f"{latency.p50:.2f} ms median, {latency.p99:.2f} ms p99"))
        return [*facts, ("wall time", f"{self.wall_s:.1f} s")]

    @property
    def errors(self) -> dict[str, Errors]:
        """The errors over the scored rows by forecaster."""
        if self.forecasters:
            return {name: scores.overall for name, scores in self.forecasters.items()}
        return {name: getattr(self, name) for name in FORECASTERS}

    def best_seasonal(self) -> str:
        """Return the seasonal baseline with the smallest squared error; empty without one."""
        seasonal = {name: e.mse for name, e in self.errors.items() if name.startswith(SEASONAL)}
        return min(seasonal, key=seasonal.__getitem__, default="")

    def show(self) -> None:
        """Print the tables and the facts on standard output."""
        errors = self.errors
        show(overall(errors))
        if self.forecasters:
            print()
            show(parts(self.forecasters))
            print()
        facts = [("best", line)] if (line := best_line(errors)) else []
        for name, text in [*facts, *self.facts()]:
            print(f"{name:<12}{text}")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
    steps = kept_steps(horizon) if horizon > 1 else ()
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
