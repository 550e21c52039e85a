"""Rules of holidays: a name, the day of each year, the years in force, and what happens on a weekend."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict, Unpack

from model.calendar.dates import SUN, day_number, easter_sunday, nth_weekday, on_or_after, weekday

FIRST_YEAR, LAST_YEAR = -(10**6), 10**6


class Shift(enum.Enum):
    """The day that is a holiday too if a holiday falls on a weekend."""

    NONE = enum.auto()
    NEAREST = enum.auto()  # Friday for Saturday, Monday for Sunday
    NEXT = enum.auto()  # the next weekday that is not a holiday
    AFTER_SUNDAY = enum.auto()  # for a Sunday, the next day that is not a holiday


class When(TypedDict, total=False):
    """The keywords of every function that makes a rule: those of `Rule`."""

    since: int
    until: int
    skip: tuple[int, ...]
    every: int
    shift: Shift


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One holiday. day: its day, since 1970-01-01, in a year; since, until: years in force, without those of skip."""

    name: str
    day: Callable[[int], int]
    since: int = FIRST_YEAR
    until: int = LAST_YEAR
    skip: tuple[int, ...] = ()
    every: int = 1  # in force only in years that this number divides
    shift: Shift = Shift.NONE

    def applies(self, year: int) -> bool:
        """Whether the rule is in force in a year."""
        return self.since <= year <= self.until and year % self.every == 0 and year not in self.skip


@dataclass(frozen=True, slots=True)
class Calendar:
    """The holidays of a country or region. bridged: a weekday between two holidays is one too, as in Japan."""

    rules: tuple[Rule, ...]
    bridged: bool = False


def fixed(name: str, month: int, day: int, *, if_sunday: int = 0, **when: Unpack[When]) -> Rule:
    """Return a rule for a date. if_sunday: days by which it moves from a Sunday."""

    def found(year: int) -> int:
        at = day_number(year, month, day)
        return at + if_sunday if weekday(at) == SUN else at

    return Rule(name=name, day=found, **when)


def on_weekday(name: str, month: int, of_week: int, n: int, **when: Unpack[When]) -> Rule:
    """Return a rule for the n-th such weekday of a month, n = -1 for the last."""
    return Rule(name=name, day=lambda year: nth_weekday(year, month, of_week, n), **when)


def from_date(name: str, month: int, day: int, of_week: int, **when: Unpack[When]) -> Rule:
    """Return a rule for the first such weekday on or after a date."""
    return Rule(name=name, day=lambda year: on_or_after(day_number(year, month, day), of_week), **when)


def easter(name: str, days: int, **when: Unpack[When]) -> Rule:
    """Return a rule for a day before (negative) or after Easter Sunday."""
    return Rule(name=name, day=lambda year: easter_sunday(year) + days, **when)


def once(name: str, year: int, month: int, day: int) -> Rule:
    """Return a rule for one date of one year."""
    return fixed(name, month, day, since=year, until=year)
