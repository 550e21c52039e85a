"""Rounds and groups (DESIGN R4): which ticks are stepped, and learned, together. Serving and learner share it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

GROUP_ROWS = 32  # throughput of a training step peaks at 32–64 rows
PADDED_ROWS = (1, 4, 8, 16, 32)


def padded_rows(rows: int) -> int:
    """The size that a group of so many rows is padded to, so that few shapes of tapes are needed."""
    return next(n for n in PADDED_ROWS if n >= rows)


def rounds(streams: NDArray[np.uint32], limit: int = GROUP_ROWS) -> list[NDArray[np.intp]]:
    """Split ticks into groups, each with a stream at most once: round r holds the r-th tick of every stream.

    streams: (n,) stream numbers in record order. Returns index arrays of at most `limit` rows each, in record order
    within a round; together they hold every index once. A pure function of its input: same journal, same groups.
    """
    n = len(streams)
    if n <= 1:
        return [np.zeros(1, np.intp)] if n else []
    order = np.argsort(streams, kind="stable")
    ranked = streams[order]
    first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    occurrence = np.empty(n, np.intp)
    occurrence[order] = np.arange(n) - np.repeat(first, np.diff(np.append(first, n)))
    by_round = np.argsort(occurrence, kind="stable")
    starts = np.searchsorted(occurrence[by_round], np.arange(occurrence.max() + 2))
    groups = []
    for a, b in pairwise(starts):
        groups += [by_round[i : min(i + limit, b)] for i in range(a, b, limit)]
    return groups
