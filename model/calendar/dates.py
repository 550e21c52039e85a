"""Dates of the proleptic Gregorian calendar as days since 1970-01-01, for any year."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

MON, TUE, WED, THU, FRI, SAT, SUN = range(7)
CYCLE_YEARS, CYCLE_DAYS = 400, 146_097  # the calendar repeats, with the same weekdays
EPOCH_DAY = 719_468  # days from 0000-03-01 to 1970-01-01

Years = TypeVar("Years", int, NDArray[np.int64])


def day_number(year: Years, month: int, day: int) -> Years:
    """Return the day of a date. day: may be beyond the month's end, and then counts on.

    Source: Hinnant, chrono-Compatible Low-Level Date Algorithms (2013), days_from_civil: years begin on March 1.
    """
    if month <= 2:
        year = year - 1
    of_cycle = year % CYCLE_YEARS
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    days = of_cycle * 365 + of_cycle // 4 - of_cycle // 100 + of_year
    return year // CYCLE_YEARS * CYCLE_DAYS + days - EPOCH_DAY


def year_of(day: int) -> int:
    """Return the year that holds a day."""
    year = 1970 + int(day // 365.2425)
    while day < day_number(year, 1, 1):
        year -= 1
    while day >= day_number(year + 1, 1, 1):
        year += 1
    return year


def weekday(day: Years) -> Years:
    """Return the day of the week, 0 for Monday; 1970-01-01 was a Thursday."""
    return (day + THU) % 7


def on_or_after(day: Years, of_week: int) -> Years:
    """Return the first day with this weekday that is not before `day`."""
    return day + (of_week - weekday(day)) % 7


def nth_weekday(year: Years, month: int, of_week: int, n: int) -> Years:
    """Return the n-th such weekday of a month; n: 1 to 4, or -1 for the last."""
    if n == -1:
        return on_or_after(day_number(year, month + 1, 1) if month < 12 else day_number(year + 1, 1, 1), of_week) - 7
    return on_or_after(day_number(year, month, 1), of_week) + 7 * (n - 1)


def easter_sunday(year: int) -> int:
    """Return the day of Easter Sunday.

    Source: the anonymous Gregorian algorithm, Nature 13 (1876), p. 487; Meeus, Astronomical Algorithms, chapter 8.
    """
    a, (b, c) = year % 19, divmod(year, 100)
    d, e = divmod(b, 4)
    g = (b - (b + 8) // 25 + 1) // 3
    h = (19 * a + b - d - g + 15) % 30
    i, k = divmod(c, 4)
    n = (32 + 2 * e + 2 * i - h - k) % 7
    m = (a + 11 * h + 22 * n) // 451
    month, day = divmod(h + n - 7 * m + 114, 31)
    return day_number(year, month, day + 1)
