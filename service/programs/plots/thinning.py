"""Fewer points for drawing: the least and the greatest value of each pixel column, so that no extreme is lost."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from service.programs.plots.figure import F64

PER_COLUMN = 2  # points that a column keeps


def thinned(x: F64, y: F64, columns: int) -> tuple[F64, F64]:
    """Return the points (x, y) that a line `columns` pixels wide shows, at most two per column, in their order.

    x: (n,) ascending; y: (n,), NaN where nothing is known: a column without a value keeps one NaN, which interrupts the
    line. Few points are returned as they are.
    """
    if len(x) <= PER_COLUMN * columns:
        return x, y
    kept: list[int] = []
    for begin, end in _spans(x, columns):
        values = y[begin:end]
        if np.isnan(values).all():
            kept.append(begin)
        else:
            kept += sorted({begin + int(np.nanargmin(values)), begin + int(np.nanargmax(values))})
    return x[kept], y[kept]


def envelope(x: F64, low: F64, high: F64, columns: int) -> tuple[F64, F64, F64]:
    """Return (x, low, high) of the area between two curves, at most one point per column, which contains both.

    x: (n,) ascending; low, high: (n,). x of a column is that of its first point; NaN as in `thinned`.
    """
    if len(x) <= columns:
        return x, low, high
    spans = list(_spans(x, columns))
    starts = [begin for begin, _ in spans]
    return x[starts], np.fmin.reduceat(low, starts), np.fmax.reduceat(high, starts)


def _spans(x: F64, columns: int) -> Iterator[tuple[int, int]]:
    """Yield [begin, end) of the points of each column that has some."""
    width = x[-1] - x[0]
    column = np.minimum((x - x[0]) / width * columns, columns - 1).astype(np.intp) if width > 0 else np.zeros(len(x))
    starts = [0, *(np.flatnonzero(np.diff(column)) + 1).tolist(), len(x)]
    yield from pairwise(starts)
