"""Holidays by the code of a country or region: from rules in this room, so that a replay depends on no package.

The rules of a code are part of the format of stored models: a correction changes what their replays compute, and
belongs under a new code.
"""

from __future__ import annotations

import difflib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from model.calendar.dates import FRI, SAT, SUN, weekday, year_of
from model.calendar.europe import EUROPEAN
from model.calendar.germany import GERMANY
from model.calendar.overseas import OVERSEAS
from model.calendar.rules import Calendar, Shift

CALENDARS: dict[str, Calendar] = dict(sorted((GERMANY | EUROPEAN | OVERSEAS).items()))
OWN = "send your own as a `known` input"
BLOCK_DAYS = 512  # days whose columns are computed together
BLOCKS_KEPT = 512  # of all calendars, 1.5 kB each


def check(code: str) -> str:
    """Return the remedy for a code without a calendar; empty if it has one."""
    if code in CALENDARS:
        return ""
    if code.split("-")[0] == "CN":
        return f"its holidays follow the moon and yearly decrees: {OWN}"
    country = code.split("-")[0].upper()
    near = [country] if country in CALENDARS else difflib.get_close_matches(code.upper(), CALENDARS, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"no such calendar; {meant}Known are {', '.join(CALENDARS)}. For others {OWN}"


def near(code: str, day: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return (B, 3) of 0 and 1: whether a day is a holiday, whether the next one is, and whether the one before was.

    day: (B,) days since 1970-01-01. code: of `CALENDARS`.
    """
    blocks, within = day // BLOCK_DAYS, day % BLOCK_DAYS
    if len(day) and blocks.min() == blocks.max():  # one tick, or ticks of about the same time
        return _columns(code, int(blocks[0]))[within].astype(np.float32)
    found = np.empty((len(day), 3), np.float32)
    for block in np.unique(blocks).tolist():
        mine = blocks == block
        found[mine] = _columns(code, block)[within[mine]]
    return found


@lru_cache(maxsize=BLOCKS_KEPT)
def _columns(code: str, block: int) -> NDArray[np.uint8]:
    """Return the three columns of each day of a block."""
    first = block * BLOCK_DAYS
    every: set[int] = set()
    # A holiday of the next year may be observed at the end of this one.
    for year in range(year_of(first - 1), year_of(first + BLOCK_DAYS) + 2):
        every |= of_year(code, year).keys()
    held = np.array([day in every for day in range(first - 1, first + BLOCK_DAYS + 1)], np.uint8)
    return np.stack([held[1:-1], held[2:], held[:-2]], axis=1)


def of_year(code: str, year: int) -> dict[int, str]:
    """Return the holidays of a year by day since 1970-01-01, with names; a day observed may lie in the year before."""
    calendar = CALENDARS[code]
    rules = [(rule.day(year), rule) for rule in calendar.rules if rule.applies(year)]
    rules.sort(key=lambda dated: dated[0])
    days = {day: rule.name for day, rule in rules}
    for day, rule in rules:
        instead = _observed(day, rule.shift, days)
        if instead is not None:
            days.setdefault(instead, f"{rule.name}, observed")
    if calendar.bridged:
        own = {day for day, _ in rules}
        between = [day + 1 for day in own if day + 2 in own and day + 1 not in days and weekday(day + 1) != SUN]
        days |= dict.fromkeys(between, "between two holidays")
    return dict(sorted(days.items()))


def _observed(day: int, shift: Shift, taken: dict[int, str]) -> int | None:
    """Return the additional day of a holiday on a weekend; None if there is none. taken: days that are holidays."""
    of_week = weekday(day)
    if shift is Shift.NEAREST and of_week in (SAT, SUN):
        return day + (FRI - SAT if of_week == SAT else 1)
    if (shift is Shift.NEXT and of_week in (SAT, SUN)) or (shift is Shift.AFTER_SUNDAY and of_week == SUN):
        day += 1
        while day in taken or (shift is Shift.NEXT and weekday(day) in (SAT, SUN)):
            day += 1
        return day
    return None
