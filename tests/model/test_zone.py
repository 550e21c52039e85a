"""POSIX rules of time zones compared with zoneinfo, over zones and years, to the second at both changes."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from model import calendar
from model.calendar import zone
from model.calendar.zone import ZoneError
from service.common.zones import rule_of

# Zones whose rule has not changed in the years that follow: first year, name.
ZONES = {
    "Europe/Berlin": 1997,
    "Europe/London": 1997,
    "Europe/Dublin": 1997,  # its standard time is that of summer, with negative saving in winter
    "Europe/Istanbul": 2017,
    "America/New_York": 2008,
    "America/Los_Angeles": 2008,
    "America/St_Johns": 2012,
    "America/Santiago": 2024,
    "America/Nuuk": 2025,  # changes at -1 o'clock
    "America/Asuncion": 2026,
    "Africa/Cairo": 2024,
    "Asia/Kolkata": 2000,
    "Asia/Kathmandu": 1990,
    "Asia/Jerusalem": 2014,  # changes at 26 o'clock
    "Asia/Beirut": 2000,
    "Australia/Sydney": 2009,
    "Australia/Lord_Howe": 2009,  # saves half an hour
    "Pacific/Auckland": 2009,
    "Pacific/Chatham": 2009,
    "Antarctica/Troll": 2006,  # saves two hours
    "UTC": 2000,
}
LAST = 2045


def seconds(moment: datetime) -> float:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(seconds=1)


@pytest.mark.parametrize("name", ZONES)
def test_offsets_equal_those_of_zoneinfo_to_the_second_at_both_changes(name: str) -> None:
    there, rule = zoneinfo.ZoneInfo(name), rule_of(name)
    first, last = (seconds(datetime(year, 1, 1, tzinfo=UTC)) for year in (ZONES[name], LAST))
    hours = np.arange(first, last, 12 * 3600.0)
    offset = np.array([_offset(there, t) for t in hours.tolist()])
    changes = [_change(there, hours[n], hours[n + 1]) for n in np.flatnonzero(np.diff(offset))]
    assert len(changes) in (0, 2 * (LAST - ZONES[name])), "a year has two changes, or none"

    np.testing.assert_array_equal(zone.offsets(rule, hours), offset)
    for change in changes:
        around = np.array([change - 1.0, change - 1e-3, change, change + 1.0])
        np.testing.assert_array_equal(zone.offsets(rule, around), [_offset(there, t) for t in around.tolist()])


def _offset(there: zoneinfo.ZoneInfo, t: float) -> float:
    shift = datetime.fromtimestamp(t, there).utcoffset()
    assert shift is not None
    return shift.total_seconds()


def _change(there: zoneinfo.ZoneInfo, low: float, high: float) -> float:
    """The first second with the offset of `high`."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _offset(there, middle) == _offset(there, high) else (middle, high)
    return high


@pytest.mark.parametrize(
    ("rule", "moment", "hours"),
    [
        ("EST5", "2026-07-01T00:00:00", -5),
        ("<+0545>-5:45", "2026-07-01T00:00:00", 5.75),
        ("AAA0BBB,J60/0,J305/0", "2024-02-29T23:59:59", 0),  # J60 is March 1 in every year
        ("AAA0BBB,J60/0,J305/0", "2024-03-01T00:00:00", 1),
        ("AAA0BBB,59/0,304/0", "2024-02-29T00:00:00", 1),  # day 59, counted from 0, is February 29 in a leap year
        ("AAA0BBB,59/0,304/0", "2023-02-28T23:59:59", 0),
        ("AAA3BBB,0/0,J365/25", "2026-01-01T03:00:00", -2),  # saving all year: each end is also the next start
        ("AAA3BBB,0/0,J365/25", "2026-12-31T23:59:59", -2),
        ("AAA-1BBB,M1.1.0/-167,M7.1.0/167", "2025-12-28T00:00:00", 2),  # Sunday, January 4, is 167 hours later
        ("AAA-1BBB,M1.1.0/-167,M7.1.0/167", "2025-12-27T23:59:59", 1),
    ],
)
def test_each_form_of_date_and_time_is_read(rule: str, moment: str, hours: float) -> None:
    at = seconds(datetime.fromisoformat(moment).replace(tzinfo=UTC))
    assert zone.offsets(rule, np.array([at])).tolist() == [3600 * hours]


@pytest.mark.parametrize(
    "rule",
    [
        "", "Europe/Berlin", "UTC", "CET", "CET-1CEST", "CET-25", "CET-1:60", "CE-1", "<+1-1",
        "CET-1CEST,M13.5.0,M10.5.0", "CET-1CEST,M3.6.0,M10.5.0", "CET-1CEST,M3.5.7,M10.5.0",
        "CET-1CEST,J0,J300", "CET-1CEST,1,366", "CET-1CEST,M3.5.0",
        "CET-1CEST,M3.5.0/168,M10.5.0", "CET-1 ", "CET-\u0661", "A" * 200 + "1",
    ],
)  # fmt: skip
def test_the_error_for_what_is_no_rule_names_it_with_a_remedy(rule: str) -> None:
    with pytest.raises(ZoneError, match=r"^zone = ") as caught:
        zone.parse(rule)
    assert caught.value.rule == rule
    assert "give" in caught.value.remedy


def test_the_offsets_of_the_400_years_after_are_the_same() -> None:
    rule, time = "CET-1CEST,M3.5.0,M10.5.0/3", 1.5e9 + 86400.0 * np.arange(1000, dtype=np.float64)
    later = time + 146_097 * 86400.0
    for shifted in (later, time - 146_097 * 86400.0):
        np.testing.assert_array_equal(zone.offsets(rule, time), zone.offsets(rule, shifted))
    assert set(zone.offsets(rule, time)) == {3600.0, 7200.0}


def test_without_a_rule_a_local_time_is_the_time_itself() -> None:
    time = np.array([1.5e9, np.nextafter(1.5e9, 2e9)])
    assert calendar.local(time, "") is time


def test_the_calendar_is_that_of_the_zone_at_the_tick_that_is_forecast() -> None:
    rule, berlin = rule_of("Europe/Berlin"), zoneinfo.ZoneInfo("Europe/Berlin")
    start = seconds(datetime(2026, 3, 28, tzinfo=berlin))
    for n in range(72):  # the clock is set forward on the second day
        time = np.array([start + 3600.0 * n])
        there = datetime.fromtimestamp(time[0] + 3600.0, berlin)
        day = 2 * np.pi * there.hour / 24
        week = 2 * np.pi * there.weekday() / 7
        (got,) = calendar.inputs(time, 3600.0, rule)
        np.testing.assert_allclose(got, [np.sin(day), np.cos(day), np.sin(week), np.cos(week)], rtol=0, atol=1e-7)
