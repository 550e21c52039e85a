"""Rounds and groups (DESIGN R4): the ticks that are stepped and learned together, for serving and learner alike."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

GROUP_ROWS = 32  # throughput of a training step peaks at 32–64 rows
PADDED_ROWS = (1, 4, 8, 16, 32)
# 2⁶⁴ divided by the golden ratio, odd: its multiples modulo 2⁶⁴ are evenly spread, and so is every n-th of them.
GOLDEN = 0x9E3779B97F4A7C15


def padded_rows(rows: int) -> int:
    """Return the size to which a group of `rows` rows is padded, so that few shapes of tapes are needed."""
    return next(n for n in PADDED_ROWS if n >= rows)


def rounds(streams: NDArray[np.uint32], limit: int = GROUP_ROWS) -> list[NDArray[np.intp]]:
    """Split ticks into groups in which a stream occurs at most once: round r holds the r-th tick of every stream.

    streams: (n,) stream numbers in record order. Returns index arrays of at most `limit` rows each, in record order
    within a round; every index occurs once. The same journal always gives the same groups.
    """
    return list(each_round(streams, limit))


def each_round(streams: NDArray[np.uint32], limit: int = GROUP_ROWS) -> Iterator[NDArray[np.intp]]:
    """Yield the groups of `rounds` one at a time: many ticks of few streams make many groups."""
    n = len(streams)
    if n <= 1:
        if n:
            yield np.zeros(1, np.intp)
        return
    if (streams[1:] > streams[:-1]).all():  # each once, as a gateway sends them
        yield from np.split(np.arange(n), range(limit, n, limit))
        return
    order = np.argsort(streams, kind="stable")
    ranked = streams[order]
    first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    occurrence = np.empty(n, np.intp)
    occurrence[order] = np.arange(n) - np.repeat(first, np.diff(np.append(first, n)))
    by_round = np.argsort(occurrence, kind="stable")
    starts = np.searchsorted(occurrence[by_round], np.arange(occurrence.max() + 2))
    for a, b in pairwise(starts):
        for i in range(a, b, limit):
            yield by_round[i : min(i + limit, b)]


def one_in(every: int, before: int, n: int) -> NDArray[np.intp]:
    """Return the indices among n items to keep when keeping one in `every`. before: items seen before these.

    Items are chosen by a hash of their number, so that streams which alternate in any pattern are thinned equally:
    keeping every second label of two alternating streams would drop one stream.
    """
    number = np.uint64(before) + np.arange(1, n + 1, dtype=np.uint64)
    return np.flatnonzero(number * np.uint64(GOLDEN) <= np.uint64((2**64 - 1) // every))
