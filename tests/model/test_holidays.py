"""Holidays compared with official lists of several years, copied by hand, and with plain arithmetic on dates."""

from __future__ import annotations

import zlib
from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import calendar
from model.calendar import dates, holidays

EPOCH = date(1970, 1, 1)

# All holidays of a year, month-day. Days on a weekend that are also observed on another are both listed.
OFFICIAL = {
    "US 2021": "1-1 1-18 2-15 5-31 6-18 6-19 7-4 7-5 9-6 10-11 11-11 11-25 12-24 12-25 12-31",
    "US 2020": "1-1 1-20 2-17 5-25 7-3 7-4 9-7 10-12 11-11 11-26 12-25",
    "US 2026": "1-1 1-19 2-16 5-25 6-19 7-3 7-4 9-7 10-12 11-11 11-26 12-25",
    "DE 2017": "1-1 4-14 4-17 5-1 5-25 6-5 10-3 10-31 12-25 12-26",
    "DE 2024": "1-1 3-29 4-1 5-1 5-9 5-20 10-3 12-25 12-26",
    "DE-BB 2024": "1-1 3-29 3-31 4-1 5-1 5-9 5-19 5-20 10-3 10-31 12-25 12-26",
    "DE-BE 2018": "1-1 3-30 4-2 5-1 5-10 5-21 10-3 12-25 12-26",
    "DE-BE 2020": "1-1 3-8 4-10 4-13 5-1 5-8 5-21 6-1 10-3 12-25 12-26",
    "DE-BE 2025": "1-1 3-8 4-18 4-21 5-1 5-8 5-29 6-9 10-3 12-25 12-26",
    "DE-BW 2025": "1-1 1-6 4-18 4-21 5-1 5-29 6-9 6-19 10-3 11-1 12-25 12-26",
    "DE-BY 2024": "1-1 1-6 3-29 4-1 5-1 5-9 5-20 5-30 8-15 10-3 11-1 12-25 12-26",
    "DE-HE 2025": "1-1 4-18 4-21 5-1 5-29 6-9 6-19 10-3 12-25 12-26",
    "DE-HH 2016": "1-1 3-25 3-28 5-1 5-5 5-16 10-3 12-25 12-26",
    "DE-HH 2018": "1-1 3-30 4-2 5-1 5-10 5-21 10-3 10-31 12-25 12-26",
    "DE-MV 2022": "1-1 4-15 4-18 5-1 5-26 6-6 10-3 10-31 12-25 12-26",
    "DE-MV 2023": "1-1 3-8 4-7 4-10 5-1 5-18 5-29 10-3 10-31 12-25 12-26",
    "DE-NW 2023": "1-1 4-7 4-10 5-1 5-18 5-29 6-8 10-3 11-1 12-25 12-26",
    "DE-SL 2023": "1-1 4-7 4-10 5-1 5-18 5-29 6-8 8-15 10-3 11-1 12-25 12-26",
    "DE-SN 2025": "1-1 4-18 4-21 5-1 5-29 6-9 10-3 10-31 11-19 12-25 12-26",
    "DE-ST 2025": "1-1 1-6 4-18 4-21 5-1 5-29 6-9 10-3 10-31 12-25 12-26",
    "DE-TH 2018": "1-1 3-30 4-2 5-1 5-10 5-21 10-3 10-31 12-25 12-26",
    "DE-TH 2019": "1-1 4-19 4-22 5-1 5-30 6-10 9-20 10-3 10-31 12-25 12-26",
    "AT 2024": "1-1 1-6 4-1 5-1 5-9 5-20 5-30 8-15 10-26 11-1 12-8 12-25 12-26",
    "AT 2025": "1-1 1-6 4-21 5-1 5-29 6-9 6-19 8-15 10-26 11-1 12-8 12-25 12-26",
    "CH 2024": "1-1 3-29 4-1 5-9 5-20 8-1 12-25 12-26",
    "FR 2024": "1-1 4-1 5-1 5-8 5-9 5-20 7-14 8-15 11-1 11-11 12-25",
    "FR 2025": "1-1 4-21 5-1 5-8 5-29 6-9 7-14 8-15 11-1 11-11 12-25",
    "GB 2020": "1-1 4-10 4-13 5-8 5-25 8-31 12-25 12-26 12-28",
    "GB 2021": "1-1 4-2 4-5 5-3 5-31 8-30 12-25 12-26 12-27 12-28",
    "GB-ENG 2022": "1-1 1-3 4-15 4-18 5-2 6-2 6-3 8-29 9-19 12-25 12-26 12-27",
    "GB-WLS 2023": "1-1 1-2 4-7 4-10 5-1 5-8 5-29 8-28 12-25 12-26",
    "GB-SCT 2022": "1-1 1-2 1-3 1-4 4-15 5-2 6-2 6-3 8-1 9-19 11-30 12-25 12-26 12-27",
    "GB-SCT 2023": "1-1 1-2 1-3 4-7 5-1 5-8 5-29 8-7 11-30 12-25 12-26",
    "GB-NIR 2024": "1-1 3-17 3-18 3-29 4-1 5-6 5-27 7-12 8-26 12-25 12-26",
    "IT 2024": "1-1 1-6 3-31 4-1 4-25 5-1 6-2 8-15 11-1 12-8 12-25 12-26",
    "IT 2011": "1-1 1-6 3-17 4-24 4-25 5-1 6-2 8-15 11-1 12-8 12-25 12-26",
    "ES 2024": "1-1 1-6 3-29 5-1 8-15 10-12 11-1 12-6 12-8 12-25",
    "NL 2013": "1-1 3-31 4-1 4-30 5-9 5-19 5-20 12-25 12-26",
    "NL 2014": "1-1 4-20 4-21 4-26 5-29 6-8 6-9 12-25 12-26",
    "NL 2025": "1-1 4-20 4-21 4-26 5-5 5-29 6-8 6-9 12-25 12-26",
    "BE 2024": "1-1 4-1 5-1 5-9 5-20 7-21 8-15 11-1 11-11 12-25",
    "PL 2018": "1-1 1-6 4-1 4-2 5-1 5-3 5-20 5-31 8-15 11-1 11-11 11-12 12-25 12-26",
    "PL 2025": "1-1 1-6 4-20 4-21 5-1 5-3 6-8 6-19 8-15 11-1 11-11 12-24 12-25 12-26",
    "SE 2004": "1-1 1-6 4-9 4-11 4-12 5-1 5-20 5-30 5-31 6-26 11-6 12-25 12-26",
    "SE 2024": "1-1 1-6 3-29 3-31 4-1 5-1 5-9 5-19 6-6 6-22 11-2 12-25 12-26",
    "DK 2023": "1-1 4-6 4-7 4-9 4-10 5-5 5-18 5-28 5-29 12-25 12-26",
    "DK 2024": "1-1 3-28 3-29 3-31 4-1 5-9 5-19 5-20 12-25 12-26",
    "NO 2024": "1-1 3-28 3-29 3-31 4-1 5-1 5-9 5-17 5-19 5-20 12-25 12-26",
    "FI 2025": "1-1 1-6 4-18 4-20 4-21 5-1 5-29 6-8 6-21 11-1 12-6 12-25 12-26",
    "PT 2014": "1-1 4-18 4-20 4-25 5-1 6-10 8-15 12-8 12-25",
    "PT 2024": "1-1 3-29 3-31 4-25 5-1 5-30 6-10 8-15 10-5 11-1 12-1 12-8 12-25",
    "IE 2022": "1-1 3-17 3-18 4-18 5-2 6-6 8-1 10-31 12-25 12-26",
    "IE 2024": "1-1 2-5 3-17 4-1 5-6 6-3 8-5 10-28 12-25 12-26",
    "IE 2030": "1-1 2-1 3-17 4-22 5-6 6-3 8-5 10-28 12-25 12-26",  # February 1 is a Friday
    "CA 2022": "1-1 1-3 4-15 5-23 7-1 9-5 9-30 10-10 11-11 12-25 12-26 12-27",
    "CA 2024": "1-1 3-29 5-20 7-1 9-2 9-30 10-14 11-11 12-25 12-26",
    "AU 2022": "1-1 1-3 1-26 4-15 4-18 4-25 9-22 12-25 12-26 12-27",
    "AU 2025": "1-1 1-26 1-27 4-18 4-21 4-25 12-25 12-26",
    "NZ 2011": "1-1 1-2 1-3 1-4 2-6 4-22 4-25 6-6 10-24 12-25 12-26 12-27",  # Anzac Day is Easter Monday
    "NZ 2022": "1-1 1-2 1-3 1-4 2-6 2-7 4-15 4-18 4-25 6-6 6-24 9-26 10-24 12-25 12-26 12-27",
    "NZ 2025": "1-1 1-2 2-6 4-18 4-21 4-25 6-2 6-20 10-27 12-25 12-26",
    "BR 2023": "1-1 4-7 4-21 5-1 9-7 10-12 11-2 11-15 12-25",
    "BR 2024": "1-1 3-29 4-21 5-1 9-7 10-12 11-2 11-15 11-20 12-25",
    "IN 2024": "1-26 8-15 10-2",
    "JP 2015": "1-1 1-12 2-11 3-21 4-29 5-3 5-4 5-5 5-6 7-20 9-21 9-22 9-23 10-12 11-3 11-23 12-23",
    "JP 2019": "1-1 1-14 2-11 3-21 4-29 4-30 5-1 5-2 5-3 5-4 5-5 5-6 7-15 8-11 8-12 9-16 9-23 10-14 10-22 11-3 11-4"
    " 11-23",
    "JP 2020": "1-1 1-13 2-11 2-23 2-24 3-20 4-29 5-3 5-4 5-5 5-6 7-23 7-24 8-10 9-21 9-22 11-3 11-23",
    "JP 2021": "1-1 1-11 2-11 2-23 3-20 4-29 5-3 5-4 5-5 7-22 7-23 8-8 8-9 9-20 9-23 11-3 11-23",
    "JP 2024": "1-1 1-8 2-11 2-12 2-23 3-20 4-29 5-3 5-4 5-5 5-6 7-15 8-11 8-12 9-16 9-22 9-23 10-14 11-3 11-4 11-23",
}  # fmt: skip
# CRC-32 of the columns of the days of 2000 to 2025. A stored model names a code, and its replay computes these again.
PAST = {
    "AT": "6a242330", "AU": "82f499da", "BE": "005b5c95", "BR": "e9a00e27", "CA": "131734d2", "CH": "0725546b",
    "DE": "aad4d4bb", "DE-BB": "87e5ad8e", "DE-BE": "f2e03e80", "DE-BW": "ccaad5e2", "DE-BY": "cd1494cd",
    "DE-HB": "8efce857", "DE-HE": "0e7f0b11", "DE-HH": "8efce857", "DE-MV": "8368dd67", "DE-NI": "8efce857",
    "DE-NW": "3ce6f81f", "DE-RP": "3ce6f81f", "DE-SH": "8efce857", "DE-SL": "3d58b930", "DE-SN": "f40f6ae2",
    "DE-ST": "1e0d56aa", "DE-TH": "3ac6c9e3", "DK": "c188d9ab", "ES": "21166844", "FI": "c818cbb4", "FR": "ba7c38ea",
    "GB": "9cbe0024", "GB-ENG": "9cbe0024", "GB-NIR": "068d8d6b", "GB-SCT": "b7a00452", "GB-WLS": "9cbe0024",
    "IE": "1e4aab33", "IN": "dbcb1bbd", "IT": "fdaa678b", "JP": "b3045900", "NL": "b9fe20cd", "NO": "5e0e6b98",
    "NZ": "630ff8cb", "PL": "80cff3bc", "PT": "e89e4b22", "SE": "2a38f487", "US": "60b81c67",
}  # fmt: skip
EASTER = "2000-4-23 2008-3-23 2011-4-24 2016-3-27 2019-4-21 2024-3-31 2025-4-20 2026-4-5 2038-4-25 2049-4-18"


def number(year: int, month: int, day: int) -> int:
    return (date(year, month, day) - EPOCH).days


def in_year(code: str, year: int) -> set[int]:
    """Days of a year whose first column of `near` is 1."""
    days = np.arange(number(year, 1, 1), number(year + 1, 1, 1))
    return set(days[holidays.near(code, days)[:, 0] == 1].tolist())


@pytest.mark.parametrize("case", OFFICIAL)
def test_the_holidays_of_a_year_are_those_of_the_official_list(case: str) -> None:
    code, year = case.split()
    expected = [EPOCH.replace(int(year), *map(int, day.split("-"))) for day in OFFICIAL[case].split()]
    assert sorted(EPOCH + timedelta(day) for day in in_year(code, int(year))) == expected


def test_the_past_days_of_a_code_never_change() -> None:
    days = np.arange(number(2000, 1, 1), number(2026, 1, 1))
    made = {code: holidays.near(code, days).astype(np.uint8).tobytes() for code in holidays.CALENDARS}
    changed = [code for code, columns in made.items() if f"{zlib.crc32(columns):08x}" != PAST[code]]
    assert not changed, "replays of their models would differ: put the correction under a new code"


def test_each_country_has_a_hand_checked_year() -> None:
    assert {code[:2] for code in holidays.CALENDARS} == {case[:2] for case in OFFICIAL}
    assert len(holidays.CALENDARS) == 1 + 16 + 5 + 21


def test_easter_is_on_the_published_dates() -> None:
    for text in EASTER.split():
        year, month, day = map(int, text.split("-"))
        assert dates.easter_sunday(year) == number(year, month, day)


@given(st.dates())
def test_dates_are_those_of_the_standard_library(day: date) -> None:
    n = dates.day_number(day.year, day.month, day.day)
    assert n == (day - EPOCH).days
    assert dates.weekday(n) == day.weekday()
    assert dates.year_of(n) == day.year


def test_every_announced_matariki_is_a_friday() -> None:
    found = [d for y in range(2022, 2053) for d, name in holidays.of_year("NZ", y).items() if name == "Matariki"]
    assert [dates.weekday(day) for day in found] == [dates.FRI] * 31


@pytest.mark.parametrize("code", holidays.CALENDARS)
def test_the_columns_are_the_day_the_next_and_the_one_before_across_years_and_blocks(code: str) -> None:
    days = np.arange(number(2018, 12, 1), number(2023, 1, 31))
    held, after, before = holidays.near(code, days).T
    np.testing.assert_array_equal(after[:-1], held[1:])
    np.testing.assert_array_equal(before[1:], held[:-1])
    alone = np.concatenate([holidays.near(code, days[i : i + 1]) for i in range(0, len(days), 7)])
    np.testing.assert_array_equal(alone, holidays.near(code, days)[::7])
    assert set(days[held == 1]) <= {d for y in range(2018, 2025) for d in holidays.of_year(code, y)}


def test_a_day_observed_in_the_year_before_is_found_wherever_a_block_ends() -> None:
    found = 0
    for end in range(number(1, 1, 1) // 512 * 512, number(4000, 1, 1), 512):
        year = dates.year_of(end + 3)
        if end - 3 <= dates.day_number(year, 1, 1) <= end + 3:
            days = np.arange(end - 4, end + 5)
            every = holidays.of_year("US", year - 1) | holidays.of_year("US", year)
            expected = [float(day in every) for day in range(end - 5, end + 6)]
            got = holidays.near("US", days).T.tolist()
            assert got == [expected[1:-1], expected[2:], expected[:-2]]
            found += dates.day_number(year - 1, 12, 31) in every and end - 1 == dates.day_number(year - 1, 12, 31)
    assert found, "no block ends with a day observed for New Year's Day"


@pytest.mark.parametrize("code", holidays.CALENDARS)
def test_no_holiday_is_observed_in_the_year_after(code: str) -> None:
    for year in range(1990, 2100):
        assert max(holidays.of_year(code, year)) < dates.day_number(year + 1, 1, 1)


def test_days_far_from_today_have_columns_too() -> None:
    days = np.array([-(10**7), 10**7])  # some 27,000 years away
    assert all(holidays.near(code, days).shape == (2, 3) for code in holidays.CALENDARS)
    assert holidays.near("US", days[:0]).shape == (0, 3)


def test_a_holiday_begins_at_midnight_of_the_zone() -> None:
    midnight = 86400.0 * number(2026, 10, 3) - 7200.0  # of summer time, in UTC
    time = midnight - 3600.0 + np.array([-1.0, 0.0])  # the tick that is forecast comes one interval later
    rule = "CET-1CEST,M3.5.0,M10.5.0/3"
    local = calendar.inputs(time, 3600.0, rule, "DE-BY")
    assert local.shape == (2, calendar.size(3600.0, "DE-BY"))
    assert local[:, 4:].tolist() == [[0, 1, 0], [1, 0, 0]]
    assert calendar.inputs(time, 3600.0, "", "DE-BY")[:, 4:].tolist() == [[0, 1, 0], [0, 1, 0]]
    np.testing.assert_array_equal(local[:, :4], calendar.inputs(time, 3600.0, rule))


@pytest.mark.parametrize(
    ("code", "meant"),
    [
        ("us", "did you mean US"),
        ("US-CA", "did you mean US"),
        ("DE-BAY", "did you mean DE"),
        ("CN", "moon"),
        ("X", "FR"),
    ],
)
def test_the_remedy_for_a_code_without_a_calendar_names_one_or_the_inputs(code: str, meant: str) -> None:
    assert meant in holidays.check(code)
    assert "`known`" in holidays.check(code)
    assert not holidays.check("US")
