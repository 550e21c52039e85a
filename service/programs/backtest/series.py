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
    """A recorded multivariate series.

    names: of the C value columns, in the file's order or the requested one.
    x: (N, C) float32, model inputs: values less the offset, finite, or NaN for a missing value if those are allowed.
    time: (N,) float64 seconds since 1970-01-01 UTC, strictly increasing; None without a time column.
    interval: median step between rows in seconds, over all entities of the file; 0 without a time column.
    entity: name of the series in a file with several; "" in a file with one.
    exact: (N, C) float64 values as in the file if float32 would lose changes of a column; otherwise None.
    offset: (C,) float64, subtracted before rounding; None if nothing was subtracted.
    sent: (N, sent) float32, known and static values that a row's tick sends beside its channels; None without any.
    """

    names: tuple[str, ...]
    x: NDArray[np.float32]
    time: NDArray[np.float64] | None
    interval: float
    entity: str = ""
    exact: F64 | None = None
    offset: F64 | None = None
    sent: NDArray[np.float32] | None = None

    def head(self, rows: int) -> Series:
        """Return the first rows."""
        return replace(
            self,
            x=self.x[:rows],
            time=None if self.time is None else self.time[:rows],
            exact=None if self.exact is None else self.exact[:rows],
            sent=None if self.sent is None else self.sent[:rows],
        )

    @property
    def rows(self) -> NDArray[np.float32]:
        """(N, row) what a network reads of each tick: x, and what was sent beside it."""
        return self.x if self.sent is None else np.concatenate([self.x, self.sent], axis=1)

    @property
    def values(self) -> NDArray[np.floating[Any]]:
        """(N, C) values in the file's units, float64 if float32 would lose changes; forecasts are scored with them."""
        return self.x if self.exact is None else self.exact

    def added(self, columns: Sequence[int]) -> F64 | None:
        """Return the offsets (columns,) to add to forecasts of these columns; None if there are none."""
        return None if self.offset is None else self.offset[list(columns)]


def read_series(
    path: str | Path,
    time_column: str | None = None,
    columns: Sequence[str] | None = None,
    holds: bool = False,
    options: Options = DEFAULT,
) -> Series:
    """Read the only series of a file. time_column: as `Options.time`; the others as for `every_series`."""
    recording = read(path, options if time_column is None else replace(options, time=time_column))
    return every_series(recording, columns, holds)[0]


def every_series(
    recording: Recording, columns: str | Sequence[str] | None, holds: bool, offsets: bool = True
) -> list[Series]:
    """Return the series of each entity.

    columns: value columns, in this order; None for all except time and entity. holds: missing values become NaN.
    offsets: subtract the level of columns whose changes float32 would lose. The recording's notes list these columns.
    Raises TableError for a value that is missing without `holds`, not a number or not finite.
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
    """Return one series. If float32 would lose changes of a column, its offset is its first value, rounded."""
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
    """Return how changes that float32 would lose were treated, one line per column."""
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
