"""The demo's series: New York's taxi rides as they are, with a change half-way, or as many zones of one city.

All are functions of the file alone, so that every run sees the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from service.common.errors import Invalid
from service.programs.backtest.plan import Plan
from service.programs.backtest.series import F64, Series

STREAM = "nyc"
MOST_ZONES = 200
ZONE_ROWS = 1344  # four weeks of half-hours, if not asked otherwise
DAY, WEEK = 48, 336  # rows
FASTER = 1.5  # a day of 24 hours passes in 16
CEILING = 99.9  # percentile that is mirrored to 0, so that single peaks do not lift everything


def world(plan: Plan, streams: int = 1, rows: int = ZONE_ROWS, drifts: bool = False) -> Plan:
    """Return the plan of one stream, or of many with `rows` rows each, with the change half-way or without.

    streams: 1 to MOST_ZONES, see `checked_streams`.
    """
    if streams == 1 and not drifts:
        return plan
    values = plan.series.x[:, 0].astype(np.float64)
    if streams == 1:
        every = [(STREAM, values)]
    else:
        every = [(f"zone-{n + 1:02d}", zone(values, n, rows)) for n in range(streams)]
    made = [_series(plan.series, name, drifted(x) if drifts else x) for name, x in every]
    return replace(plan, series=made[0], others=tuple(made[1:]))


def checked_streams(streams: int) -> int:
    """Return the number of streams. Raises Invalid if it is not within 1 to MOST_ZONES."""
    if not 1 <= streams <= MOST_ZONES:
        raise Invalid("streams", streams, f"give 1 to {MOST_ZONES}")
    return streams


def drifted(values: F64) -> F64:
    """Return rides (n,) whose character changes half-way: days last 16 hours, and the busy hours are the quiet ones.

    The second half is read 1.5 times as fast (linear interpolation, from the half's start again at its end) and
    mirrored between 0 and its 99.9th percentile. So the period, the sign of the daily pattern and its place in the
    calendar change at once, while values stay whole rides between 0 and what was seen before. A change of the level or
    of the scale alone would not do: the model reads changes in units of their recent size.
    """
    half = len(values) // 2
    after = values[half:]
    at = np.arange(len(after)) * FASTER
    read = np.interp(at % max(1, len(after) - 1), np.arange(len(after)), after)
    return np.concatenate([values[:half], np.maximum(0, np.round(np.percentile(read, CEILING) - read))])


def zone(values: F64, number: int, rows: int) -> F64:
    """Return the rides (rows,) of one zone of a city, each another mixture of weeks of the recorded series.

    A zone has its own size, and its hours lie up to three hours earlier or later. Every fifth is an office district,
    with a third of the rides at weekends; every seventh lives at night, with its hours shifted by half a day. Its
    noise is that of counting. All of it is drawn from the zone's number.
    """
    random = np.random.default_rng(number)
    size, share = float(10 ** random.uniform(-1.7, -0.3)), float(random.uniform(0.2, 0.8))
    shift = int(random.integers(-6, 7))
    if number % 7 == 6:
        shift += DAY // 2
    weeks = max(1, (len(values) - rows) // WEEK + 1)
    first, second = (int(week) * WEEK for week in random.integers(0, weeks, 2))
    at = np.arange(rows) + shift
    mixed = share * np.take(values, first + at, mode="wrap") + (1 - share) * np.take(values, second + at, mode="wrap")
    if number % 5 == 4:
        day = np.arange(rows) // DAY  # the record begins on a Tuesday
        mixed = np.where(np.isin(day % 7, (4, 5)), mixed / 3, mixed)
    mean = size * mixed
    noise = np.sqrt(mean) * random.standard_normal(rows)
    return np.maximum(0.0, np.round(mean + noise)).astype(np.float64)


def _series(like: Series, name: str, values: F64) -> Series:
    x = values.astype(np.float32)[:, None]
    return replace(like, x=x, time=None if like.time is None else like.time[: len(x)], entity=name)


def names(plan: Plan) -> Sequence[str]:
    """Return the streams' ids."""
    return [series.entity or STREAM for series in plan.entities]
