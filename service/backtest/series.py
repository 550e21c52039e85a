"""Recorded series from a file: values and event times as a model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.tables.errors import TableError
from service.tables.names import listed
from service.tables.options import DEFAULT, Options
from service.tables.reading import read
from service.tables.recording import Recording

SeriesError = TableError


@dataclass(frozen=True, slots=True)
class Series:
    """A recorded multivariate series, as the file has it.

    names: of the C value columns, in the file's order or the one asked for; x: (N, C) float32, finite, or NaN for a
    missing value where those were allowed;
    time: (N,) float64 seconds since 1970-01-01 UTC, strictly increasing, or None without a time column;
    interval: the median step between rows in seconds, 0 without a time column; of all entities of the file.
    entity: which of a file with many this is, "" in a file of one.
    """

    names: tuple[str, ...]
    x: NDArray[np.float32]
    time: NDArray[np.float64] | None
    interval: float
    entity: str = ""

    def head(self, rows: int) -> Series:
        """The first rows."""
        return replace(self, x=self.x[:rows], time=None if self.time is None else self.time[:rows])


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


def every_series(recording: Recording, columns: str | Sequence[str] | None, holds: bool) -> list[Series]:
    """The series of each entity. columns: which value columns, in this order; None is all but time and entity.

    holds: missing values become NaN. Raises TableError for anything missing, not a number or not finite.
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
    return [
        Series(tuple(names), entity.apply(x).astype(np.float32), entity.time, interval, entity.name)
        for entity in recording.entities
    ]
