"""Time zones as POSIX TZ rules: the offset from UTC, with daylight saving time.

A rule is text that holds all of its meaning, so that a replay does not depend on a machine's time zone database. It
knows no former rules: it applies to every year alike. Source: IEEE Std 1003.1, section 8.3, TZ, with the hours of RFC
8536, section 3.3.1: -167 to 167.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from model.calendar.dates import CYCLE_DAYS, CYCLE_YEARS, SUN, day_number, nth_weekday

F64 = NDArray[np.float64]
DAY_S = 86400.0
CYCLE_S = CYCLE_DAYS * DAY_S
RULES_KEPT = 256  # parsed rules that are cached, 13 kB each
MAX_RULE = 128  # characters
MAX_OFFSET_H, MAX_TIME_H = 24, 167

_NAME = r"(?:[A-Za-z]{3,}|<[A-Za-z0-9+-]{3,}>)"
_CLOCK = r"[+-]?[0-9]{1,3}(?::[0-9]{2}(?::[0-9]{2})?)?"
_DATE = r"M[0-9]{1,2}\.[0-9]\.[0-9]|J[0-9]{1,3}|[0-9]{1,3}"
_RULE = re.compile(
    rf"{_NAME}(?P<standard>{_CLOCK})(?:(?P<saves>{_NAME})(?P<saving>{_CLOCK})?"
    rf"(?:,(?P<start>{_DATE})(?:/(?P<start_time>{_CLOCK}))?,(?P<end>{_DATE})(?:/(?P<end_time>{_CLOCK}))?)?)?"
)
EXAMPLE = "give a POSIX rule such as CET-1CEST,M3.5.0,M10.5.0/3, or <+03>-3 without daylight saving time"


class ZoneError(ValueError):
    """A rule that cannot be read: its text and the remedy."""

    def __init__(self, rule: str, remedy: str) -> None:
        super().__init__(f"zone = {rule!r}: {remedy}")
        self.rule, self.remedy = rule, remedy


@dataclass(frozen=True, slots=True)
class Zone:
    """The offsets of a rule over 400 years, after which the calendar repeats.

    times: (N,) UTC seconds of the changes, increasing, the first -inf; offsets: (N,) seconds east of UTC from each on.
    """

    times: F64
    offsets: F64

    @property
    def saves(self) -> bool:
        """Whether the offset changes in the course of a year."""
        return bool((self.offsets != self.offsets[0]).any())


def local(time: F64, rule: str) -> F64:
    """Return local times (B,), seconds on the zone's clock since 1970-01-01 of that clock; without a rule, `time`.

    time: (B,) float64, seconds since 1970-01-01 UTC. Raises ZoneError.
    """
    return time + offsets(rule, time) if rule else time


def offsets(rule: str, time: F64) -> F64:
    """Return the seconds east of UTC (B,) at times (B,), UTC seconds. A change applies from its very second on."""
    zone = parse(rule)
    return zone.offsets[np.searchsorted(zone.times, np.mod(time, CYCLE_S), side="right") - 1]


@lru_cache(maxsize=RULES_KEPT)
def parse(rule: str) -> Zone:
    """Return the offsets of a rule. Raises ZoneError, which has the remedy."""
    found = _RULE.fullmatch(rule) if len(rule) <= MAX_RULE else None
    if found is None:
        raise ZoneError(rule, EXAMPLE)
    standard = -_seconds(rule, found["standard"], MAX_OFFSET_H)
    if found["saves"] is None:
        return Zone(np.array([-np.inf]), np.array([standard]))
    if found["start"] is None:
        raise ZoneError(rule, f"it does not say when daylight saving time starts and ends: {EXAMPLE}")
    saving = standard + 3600.0 if found["saving"] is None else -_seconds(rule, found["saving"], MAX_OFFSET_H)
    # Two years more on either side: a change may be 167 hours away from its date.
    years = np.arange(1970 - 2, 1970 + CYCLE_YEARS + 2, dtype=np.int64)
    start = _changes(rule, found["start"], found["start_time"], years) - standard
    end = _changes(rule, found["end"], found["end_time"], years) - saving
    times = np.concatenate([end, start])
    after = np.repeat([standard, saving], len(years))
    order = np.argsort(times, kind="stable")  # of an end and a start at once, the start comes last and counts
    times, after = times[order], after[order]
    inside = (times > 0) & (times < CYCLE_S)
    first = after[np.flatnonzero(times <= 0)[-1]]
    return Zone(np.concatenate([[-np.inf], times[inside]]), np.concatenate([[first], after[inside]]))


def _changes(rule: str, date: str, time: str | None, years: NDArray[np.int64]) -> F64:
    """Return the changes on a date of each year, seconds on the clock in force before it."""
    seconds = 2 * 3600.0 if time is None else _seconds(rule, time, MAX_TIME_H)
    made: F64 = _days(rule, date, years).astype(np.float64) * DAY_S + seconds
    return made


def _days(rule: str, date: str, years: NDArray[np.int64]) -> NDArray[np.int64]:
    if date[0] == "M":
        month, week, of_week = map(int, date[1:].split("."))
        if not (1 <= month <= 12 and 1 <= week <= 5 and of_week <= 6):
            raise ZoneError(rule, f"{date} is no month.week.weekday: give 1 to 12, 1 to 5, and 0 (Sunday) to 6")
        return nth_weekday(years, month, (of_week + SUN) % 7, week if week < 5 else -1)
    first = day_number(years, 1, 1)
    if date[0] == "J":  # 1 to 365: February 29 is not counted
        number = int(date[1:])
        if not 1 <= number <= 365:
            raise ZoneError(rule, f"{date} is no day of the year: give J1 to J365")
        leap = (day_number(years, 3, 1) - first == 60).astype(np.int64)
        return first + number - 1 + (leap if number >= 60 else 0)
    number = int(date)
    if number > 365:
        raise ZoneError(rule, f"{date} is no day of the year: give 0 to 365")
    return first + number


def _seconds(rule: str, text: str, most: int) -> float:
    hours, minutes, seconds = [*map(int, text.lstrip("+-").split(":")), 0, 0][:3]
    if hours > most or minutes > 59 or seconds > 59:
        raise ZoneError(rule, f"{text} is no time: give at most {most} hours, 59 minutes, 59 seconds")
    return (-1.0 if text[0] == "-" else 1.0) * (3600 * hours + 60 * minutes + seconds)
