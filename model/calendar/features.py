"""Calendar inputs, known ahead of the next tick: its position in the day and in the week, and holidays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.calendar.holidays import near
from model.calendar.zone import local

DAY_S = 86400.0
WEEK_S = 7 * DAY_S
# Weeks begin on Monday; 1970-01-01 was a Thursday.
MONDAY_S = 4 * DAY_S
FEATURES, HOLIDAY_FEATURES = 4, 3


def size(interval: float, holidays: str = "") -> int:
    """Return F, the number of calendar inputs of a model: 4, with a calendar of holidays 7, or 0 without an interval.

    interval: seconds per tick.
    """
    if interval <= 0:
        return 0
    return FEATURES + (HOLIDAY_FEATURES if holidays else 0)


def inputs(time: NDArray[np.float64], interval: float, zone: str = "", holidays: str = "") -> NDArray[np.float32]:
    """Return u [B, F] float32: sine and cosine of the time of day, then of the day of the week, one interval later.

    With holidays, then: whether that day is a holiday, the next one, the one before. time: (B,) event times, seconds
    since 1970-01-01 UTC; interval: seconds per tick, 0 gives F = 0; zone: of the days, a POSIX rule, empty for UTC;
    holidays: a code of `holidays.CALENDARS`.
    Edge, trainer and backtest share this function, so that all use the same numbers.
    """
    if interval <= 0:
        return np.zeros((len(time), 0), np.float32)
    ahead = local(np.asarray(time, np.float64) + interval, zone)
    day = (2 * np.pi / DAY_S) * np.mod(ahead, DAY_S)
    week = (2 * np.pi / 7) * np.floor(np.mod(ahead - MONDAY_S, WEEK_S) / DAY_S)
    columns = np.empty((len(day), FEATURES), np.float32)
    for i, column in enumerate((np.sin(day), np.cos(day), np.sin(week), np.cos(week))):
        columns[:, i] = column
    if not holidays:
        return columns
    return np.concatenate([columns, near(holidays, np.floor(ahead / DAY_S).astype(np.int64))], axis=1)
