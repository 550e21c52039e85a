"""Recorded series from a file: values and event times as a model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freshet.precision import first_lost, short_offset
from service.programs.tables.names import listed, quoted
from service.programs.tables.options import DEFAULT, Options
from service.programs.tables.reading import read
from service.programs.tables.recording import Recording
from service.programs.tables.times.errors import TableError

SeriesError = TableError
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Series:
    """A recorded multivariate series, as the file has it.

    names: of the C value columns, in the file's order or the one asked for; x: (N, C) float32 as a model takes them,
    finite, or NaN for a missing value where those were allowed, less the offset;
    time: (N,) float64 seconds since 1970-01-01 UTC, strictly increasing, or None without a time column;
    interval: the median step between rows in seconds, 0 without a time column; of all entities of the file.
    entity: which of a file with many this is, "" in a file of one.
    exact: (N, C) float64 as the file has them, where float32 would lose changes of a column; None where x says it all.
    offset: (C,) float64, what was subtracted before rounding; None where nothing was.
    """

    names: tuple[str, ...]
    x: NDArray[np.float32]
    time: NDArray[np.float64] | None
    interval: float
    entity: str = ""
    exact: F64 | None = None
    offset: F64 | None = None

    def head(self, rows: int) -> Series:
        """The first rows."""
        return replace(
            self,
            x=self.x[:rows],
            time=None if self.time is None else self.time[:rows],
            exact=None if self.exact is None else self.exact[:rows],
        )

    @property
    def values(self) -> NDArray[np.floating[Any]]:
        """(N, C) in the units of the file, float64 where float32 would lose changes: what forecasts are judged by."""
        return self.x if self.exact is None else self.exact

    def added(self, columns: Sequence[int]) -> F64 | None:
        """(columns,) what brings forecasts of these columns into the units of the file; None where nothing does."""
        return None if self.offset is None else self.offset[list(columns)]


def read_series(
    path: str | Path,
    time_column: str | None = None,
    columns: Sequence[str] | None = None,
    holds: bool = False,
    options: Options = DEFAULT,
) -> Series:
    """Read the one series of a file. time_column: as `Options.time`; the rest as `every_series`."""
    recording = read(path, options if time_column is None else replace(options, time=time_column))
    return every_series(recording, columns, holds)[0]


def every_series(
    recording: Recording, columns: str | Sequence[str] | None, holds: bool, offsets: bool = True
) -> list[Series]:
    """The series of each entity. columns: which value columns, in this order; None is all but time and entity.

    holds: missing values become NaN. offsets: from columns whose changes float32 would lose, their level is subtracted.
    Either way the recording notes them. Raises TableError for anything missing, not a number or not finite.
    """
    names = recording.choose(columns)
    remedy = "there is no numeric column: name one that holds numbers"
    if not names:
        raise TableError("columns", "", remedy)
    if not recording.any_number(names):
        first = recording.first_text(names)
        raise TableError("columns", listed(names), remedy + first)
    x = recording.numbers(names, holds)
    interval = recording.interval
    made = [
        _series(tuple(names), entity.apply(x), entity.time, interval, entity.name, offsets)
        for entity in recording.entities
    ]
    recording.notes.extend(_notes(made, offsets))
    return made


def _series(
    names: tuple[str, ...], values: F64, time: F64 | None, interval: float, entity: str, offsets: bool
) -> Series:
    """One series. Where float32 would lose changes of a column, its first value, made short, is its offset."""
    offset, lost = np.zeros(len(names)), False
    for c in range(len(names)):
        at = first_lost(values[:, c])
        if at is None:
            continue
        lost = True
        if offsets:
            level = values[np.flatnonzero(np.isfinite(values[:, c]))[0], c]
            candidate = short_offset(float(level), float(values[at[1], c] - values[at[0], c]))
            offset[c] = candidate if first_lost(values[:, c], candidate) is None else 0.0
    x = (values - offset).astype(np.float32)
    if not lost:
        return Series(names, x, time, interval, entity)
    exact = values.copy()
    kept = [c for c in range(len(names)) if not offset[c] and first_lost(values[:, c]) is None]
    exact[:, kept] = x[:, kept]
    return Series(names, x, time, interval, entity, exact, offset if offset.any() else None)


def _notes(every: Sequence[Series], offsets: bool) -> list[str]:
    """What was done about changes that float32 would lose, in words."""
    notes, names = [], every[0].names
    for c, name in enumerate(names):
        less = [float(series.offset[c]) for series in every if series.offset is not None and series.offset[c]]
        lost = any(
            series.exact is not None
            and (series.offset is None or not series.offset[c])
            and first_lost(series.exact[:, c]) is not None
            for series in every
        )
        if less:
            level = f"{less[0]:.15g}" if len(set(less)) == 1 else f"an offset for each entity, first {less[0]:.15g}"
            notes.append(f"{quoted(name)} less {level}, beside which float32 would lose its changes")
        if lost:
            remedy = (
                "give differences" if offsets else 'give differences, or subtract its level: scaler = "none" does not'
            )
            notes.append(f"changes of {quoted(name)} are lost in float32: {remedy}")
    return notes
