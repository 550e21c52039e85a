"""Axes: from values to pixels, and ticks at round numbers and dates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from service.programs.plots.figure import F64

MINUTE, HOUR, DAY = 60, 3600, 86_400
STEPS_S = (
    1, 2, 5, 15, 30, MINUTE, 2 * MINUTE, 5 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR,
    12 * HOUR, DAY, 2 * DAY, 7 * DAY, 14 * DAY,
)  # fmt: skip
STEPS_MONTHS = (1, 2, 3, 6, 12, 24, 60, 120, 240, 600, 1200)
MONTH_S = 30.44 * DAY
FARTHEST_S = 1940 * 365.25 * DAY  # from 1970; datetime holds the years 1 to 9999
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")  # in every locale


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map of [low, high] to pixels [begin, end]; begin > end for an axis that goes up."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, values: F64) -> F64:
        """Return pixels; NaN stays NaN."""
        return self.begin + (np.asarray(values, np.float64) - self.low) * self._slope

    def at(self, value: float) -> float:
        """Return the pixel of one value."""
        return self.begin + (value - self.low) * self._slope

    @property
    def _slope(self) -> float:
        return (self.end - self.begin) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis and its label."""

    value: float
    label: str


def widened(low: float, high: float) -> tuple[float, float]:
    """Return a range with some width, also for values that are all the same, or none (not finite)."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 1.0
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = max(abs(low), abs(high)) * 0.05 or 1.0
        return low - room, high + room
    return low, high


def number_ticks(low: float, high: float, most: int = 5) -> list[Tick]:
    """Return at most about `most` ticks within [low, high] at multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / max(1, most)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [Tick(n * step, number_label(n * step, step)) for n in range(first, last + 1)]


def number_label(value: float, step: float) -> str:
    """Return a value as text with the digits that ticks `step` apart need."""
    if value and not 1e-4 <= abs(value) < 1e9:
        return f"{value:.3g}"
    digits = min(9, max(0, -math.floor(math.log10(step) + 1e-9)))
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def time_ticks(low: float, high: float, most: int = 7) -> list[Tick]:
    """Return at most about `most` ticks within [low, high], seconds since 1970, at round times and dates of UTC.

    Times outside the years 30 to 3910 get ticks at round numbers of seconds.
    """
    if not -FARTHEST_S <= low <= high <= FARTHEST_S:
        return number_ticks(low, high, most)
    begin, end = (datetime.fromtimestamp(0, UTC) + timedelta(seconds=at) for at in (low, high))
    seconds = (high - low) / max(1, most)
    step = next((step for step in STEPS_S if step >= seconds), None)
    if step is None:
        return _month_ticks(begin, end, seconds)
    if step < 1 or high - low < most:
        return number_ticks(low, high, most)
    first = math.ceil(low / step)
    return [Tick(n * step, _clock(n * step, step)) for n in range(first, math.floor(high / step) + 1)]


def _clock(at: float, step: int) -> str:
    moment = datetime.fromtimestamp(0, UTC) + timedelta(seconds=at)
    if step >= DAY or not at % DAY:
        return f"{MONTHS[moment.month - 1]} {moment.day}"
    return f"{moment:%H:%M:%S}" if step < MINUTE else f"{moment:%H:%M}"


def _month_ticks(begin: datetime, end: datetime, seconds: float) -> list[Tick]:
    months = next((n for n in STEPS_MONTHS if n * MONTH_S >= seconds), STEPS_MONTHS[-1])
    first, last = begin.year * 12 + begin.month - 1, end.year * 12 + end.month - 1
    ticks = []
    for n in range(math.ceil(first / months) * months, last + 1, months):
        year, month = divmod(n, 12)
        moment = datetime(year, month + 1, 1, tzinfo=UTC)
        if begin <= moment <= end:
            label = f"{year}" if not month else f"{MONTHS[month]}" if months < 12 else f"{MONTHS[month]} {year}"
            ticks.append(Tick((moment - datetime.fromtimestamp(0, UTC)).total_seconds(), label))
    return ticks
