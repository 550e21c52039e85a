"""Holidays of European countries, except Germany, by their holiday and labour acts."""

from __future__ import annotations

from model.calendar.dates import FRI, MON, SAT, day_number, nth_weekday, weekday
from model.calendar.rules import Calendar, Rule, Shift, easter, fixed, from_date, on_weekday, once

NEW_YEAR = fixed("New Year's Day", 1, 1)
EPIPHANY = fixed("Epiphany", 1, 6)
MAUNDY_THURSDAY, GOOD_FRIDAY = easter("Maundy Thursday", -3), easter("Good Friday", -2)
EASTER_SUNDAY, EASTER_MONDAY = easter("Easter Sunday", 0), easter("Easter Monday", 1)
ASCENSION, PENTECOST, WHIT_MONDAY = easter("Ascension", 39), easter("Pentecost", 49), easter("Whit Monday", 50)
CORPUS_CHRISTI = easter("Corpus Christi", 60)
LABOUR_DAY = fixed("Labour Day", 5, 1)
ASSUMPTION = fixed("Assumption", 8, 15)
ALL_SAINTS = fixed("All Saints' Day", 11, 1)
IMMACULATE_CONCEPTION = fixed("Immaculate Conception", 12, 8)
CHRISTMAS, SECOND_CHRISTMAS = fixed("Christmas Day", 12, 25), fixed("Second Day of Christmas", 12, 26)
MIDSUMMER = from_date("Midsummer Day", 6, 20, SAT)
ALL_SAINTS_SATURDAY = from_date("All Saints' Day", 10, 31, SAT)
NEXT = Shift.NEXT


def _brigid(year: int) -> int:
    """February 1 if that is a Friday, otherwise the month's first Monday."""
    first = day_number(year, 2, 1)
    return first if weekday(first) == FRI else nth_weekday(year, 2, MON, 1)


_BRITISH = (
    fixed("New Year's Day", 1, 1, shift=NEXT),
    GOOD_FRIDAY,
    on_weekday("Early May bank holiday", 5, MON, 1, since=1978, skip=(1995, 2020)),
    once("Early May bank holiday", 1995, 5, 8),
    once("Early May bank holiday", 2020, 5, 8),
    on_weekday("Spring bank holiday", 5, MON, -1, skip=(2002, 2012, 2022)),
    once("Spring bank holiday", 2002, 6, 4),
    once("Spring bank holiday", 2012, 6, 4),
    once("Spring bank holiday", 2022, 6, 2),
    once("Golden Jubilee", 2002, 6, 3),
    once("Royal wedding", 2011, 4, 29),
    once("Diamond Jubilee", 2012, 6, 5),
    once("Platinum Jubilee", 2022, 6, 3),
    once("State funeral of Queen Elizabeth II", 2022, 9, 19),
    once("Coronation of King Charles III", 2023, 5, 8),
    fixed("Christmas Day", 12, 25, shift=NEXT),
    fixed("Boxing Day", 12, 26, shift=NEXT),
)
_ENGLISH = (*_BRITISH, EASTER_MONDAY, on_weekday("Summer bank holiday", 8, MON, -1))
_SCOTTISH = (
    *_BRITISH,
    fixed("2 January", 1, 2, shift=NEXT),
    on_weekday("Summer bank holiday", 8, MON, 1),
    fixed("St Andrew's Day", 11, 30, since=2007, shift=NEXT),
)
_NORTHERN_IRISH = (
    *_ENGLISH,
    fixed("St Patrick's Day", 3, 17, shift=NEXT),
    fixed("Battle of the Boyne", 7, 12, shift=NEXT),
)
_SPANISH = (
    NEW_YEAR, EPIPHANY, GOOD_FRIDAY, LABOUR_DAY, ASSUMPTION, fixed("Fiesta Nacional", 10, 12), ALL_SAINTS,
    fixed("Constitution Day", 12, 6), IMMACULATE_CONCEPTION, CHRISTMAS,
)  # fmt: skip
_PORTUGUESE: tuple[Rule, ...] = (
    NEW_YEAR, GOOD_FRIDAY, EASTER_SUNDAY, fixed("Liberty Day", 4, 25), LABOUR_DAY,
    easter("Corpus Christi", 60, skip=(2013, 2014, 2015)), fixed("Portugal Day", 6, 10), ASSUMPTION,
    fixed("Republic Day", 10, 5, skip=(2013, 2014, 2015)), fixed("All Saints' Day", 11, 1, skip=(2013, 2014, 2015)),
    fixed("Independence Day", 12, 1, skip=(2013, 2014, 2015)), IMMACULATE_CONCEPTION, CHRISTMAS,
)  # fmt: skip
_ITALIAN = (
    NEW_YEAR, EPIPHANY, EASTER_SUNDAY, EASTER_MONDAY, fixed("Liberation Day", 4, 25), LABOUR_DAY,
    fixed("Republic Day", 6, 2, since=2001), ASSUMPTION, fixed("St Francis", 10, 4, since=2026), ALL_SAINTS,
    IMMACULATE_CONCEPTION, CHRISTMAS, SECOND_CHRISTMAS, once("150 years of unification", 2011, 3, 17),
)  # fmt: skip

EUROPE = {
    "AT": (
        NEW_YEAR, EPIPHANY, EASTER_MONDAY, LABOUR_DAY, ASCENSION, WHIT_MONDAY, CORPUS_CHRISTI, ASSUMPTION,
        fixed("National Day", 10, 26), ALL_SAINTS, IMMACULATE_CONCEPTION, CHRISTMAS, SECOND_CHRISTMAS,
    ),
    "BE": (
        NEW_YEAR, EASTER_MONDAY, LABOUR_DAY, ASCENSION, WHIT_MONDAY, fixed("National Day", 7, 21), ASSUMPTION,
        ALL_SAINTS, fixed("Armistice", 11, 11), CHRISTMAS,
    ),
    # Those of all or nearly all cantons; the Confederation itself has August 1 only.
    "CH": (
        NEW_YEAR, GOOD_FRIDAY, EASTER_MONDAY, ASCENSION, WHIT_MONDAY, fixed("National Day", 8, 1), CHRISTMAS,
        SECOND_CHRISTMAS,
    ),
    "DK": (
        NEW_YEAR, MAUNDY_THURSDAY, GOOD_FRIDAY, EASTER_SUNDAY, EASTER_MONDAY,
        easter("Great Prayer Day", 26, until=2023), ASCENSION, PENTECOST, WHIT_MONDAY, CHRISTMAS, SECOND_CHRISTMAS,
    ),
    "ES": _SPANISH,
    "FI": (
        NEW_YEAR, EPIPHANY, GOOD_FRIDAY, EASTER_SUNDAY, EASTER_MONDAY, LABOUR_DAY, ASCENSION, PENTECOST, MIDSUMMER,
        ALL_SAINTS_SATURDAY, fixed("Independence Day", 12, 6), CHRISTMAS, SECOND_CHRISTMAS,
    ),
    "FR": (
        NEW_YEAR, EASTER_MONDAY, LABOUR_DAY, fixed("Victory Day", 5, 8), ASCENSION, WHIT_MONDAY,
        fixed("National Day", 7, 14), ASSUMPTION, ALL_SAINTS, fixed("Armistice", 11, 11), CHRISTMAS,
    ),
    "GB": _ENGLISH,
    "GB-ENG": _ENGLISH,
    "GB-NIR": _NORTHERN_IRISH,
    "GB-SCT": _SCOTTISH,
    "GB-WLS": _ENGLISH,
    "IE": (
        NEW_YEAR, Rule(name="St Brigid's Day", day=_brigid, since=2023), fixed("St Patrick's Day", 3, 17),
        EASTER_MONDAY, on_weekday("May Day", 5, MON, 1), on_weekday("June holiday", 6, MON, 1),
        on_weekday("August holiday", 8, MON, 1), on_weekday("October holiday", 10, MON, -1), CHRISTMAS,
        fixed("St Stephen's Day", 12, 26), once("Day of Remembrance", 2022, 3, 18),
    ),
    "IT": _ITALIAN,
    "NL": (
        NEW_YEAR, EASTER_SUNDAY, EASTER_MONDAY, fixed("Queen's Day", 4, 30, if_sunday=-1, until=2013),
        fixed("King's Day", 4, 27, if_sunday=-1, since=2014), fixed("Liberation Day", 5, 5, every=5), ASCENSION,
        PENTECOST, WHIT_MONDAY, CHRISTMAS, SECOND_CHRISTMAS,
    ),
    "NO": (
        NEW_YEAR, MAUNDY_THURSDAY, GOOD_FRIDAY, EASTER_SUNDAY, EASTER_MONDAY, LABOUR_DAY,
        fixed("Constitution Day", 5, 17), ASCENSION, PENTECOST, WHIT_MONDAY, CHRISTMAS, SECOND_CHRISTMAS,
    ),
    "PL": (
        NEW_YEAR, fixed("Epiphany", 1, 6, since=2011), EASTER_SUNDAY, EASTER_MONDAY, LABOUR_DAY,
        fixed("Constitution Day", 5, 3), PENTECOST, CORPUS_CHRISTI, ASSUMPTION, ALL_SAINTS,
        fixed("Independence Day", 11, 11), once("100 years of independence", 2018, 11, 12),
        fixed("Christmas Eve", 12, 24, since=2025), CHRISTMAS, SECOND_CHRISTMAS,
    ),
    "PT": _PORTUGUESE,
    "SE": (
        NEW_YEAR, EPIPHANY, GOOD_FRIDAY, EASTER_SUNDAY, EASTER_MONDAY, LABOUR_DAY, ASCENSION, PENTECOST,
        easter("Whit Monday", 50, until=2004), fixed("National Day", 6, 6, since=2005), MIDSUMMER,
        ALL_SAINTS_SATURDAY, CHRISTMAS, SECOND_CHRISTMAS,
    ),
}  # fmt: skip
EUROPEAN = {code: Calendar(rules) for code, rules in EUROPE.items()}
