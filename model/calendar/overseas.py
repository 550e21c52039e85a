"""Holidays of countries outside Europe, by their holiday acts: national ones only."""

from __future__ import annotations

from model.calendar.dates import MON, THU, day_number
from model.calendar.rules import Calendar, Rule, Shift, easter, fixed, from_date, on_weekday, once

NEAREST, NEXT, AFTER_SUNDAY = Shift.NEAREST, Shift.NEXT, Shift.AFTER_SUNDAY
GOOD_FRIDAY, EASTER_MONDAY = easter("Good Friday", -2), easter("Easter Monday", 1)
NEW_YEAR, CHRISTMAS, BOXING_DAY = (
    fixed("New Year's Day", 1, 1, shift=NEXT),
    fixed("Christmas Day", 12, 25, shift=NEXT),
    fixed("Boxing Day", 12, 26, shift=NEXT),
)
# Matariki, by Schedule 1 of Te Ture mō te Hararei Tūmatanui o te Kāhui o Matariki 2022: month and day from 2022 on.
MATARIKI = (
    (6, 24), (7, 14), (6, 28), (6, 20), (7, 10), (6, 25), (7, 14), (7, 6), (6, 21), (7, 11), (7, 2), (6, 24), (7, 7),
    (6, 29), (7, 18), (7, 10), (6, 25), (7, 15), (7, 6), (7, 19), (7, 11), (7, 3), (6, 24), (7, 7), (6, 29), (7, 19),
    (7, 3), (6, 25), (7, 15), (6, 30), (6, 21),
)  # fmt: skip
EQUINOX_YEARS = (1980, 2099)  # years of the formula


def _equinox(month: int, at_1980: float) -> Rule:
    """Return the rule of a Japanese equinox, by the usual formula for the days that the government announces."""

    def found(year: int) -> int:
        passed = min(max(year, EQUINOX_YEARS[0]), EQUINOX_YEARS[1]) - 1980
        return day_number(year, month, int(at_1980 + 0.242194 * passed) - passed // 4)

    return Rule(name="Vernal Equinox" if month == 3 else "Autumnal Equinox", day=found, shift=AFTER_SUNDAY)


def _sunday(name: str, month: int, day: int, since: int = 1949, until: int = 10**6, skip: tuple[int, ...] = ()) -> Rule:
    return fixed(name, month, day, since=since, until=until, skip=skip, shift=AFTER_SUNDAY)


GAMES = (2020, 2021)  # years whose holidays were moved for the Olympic Games
_JAPANESE = (
    _sunday("New Year's Day", 1, 1),
    _sunday("Coming of Age Day", 1, 15, until=1999),
    on_weekday("Coming of Age Day", 1, MON, 2, since=2000),
    _sunday("Foundation Day", 2, 11),
    _sunday("Emperor's Birthday", 2, 23, since=2020),
    _sunday("Emperor's Birthday", 12, 23, since=1989, until=2018),
    _equinox(3, 20.8431),
    _sunday("Showa Day", 4, 29),
    once("Enthronement", 2019, 5, 1),
    _sunday("Constitution Day", 5, 3),
    _sunday("Greenery Day", 5, 4, since=2007),
    _sunday("Children's Day", 5, 5),
    _sunday("Marine Day", 7, 20, since=1996, until=2002),
    on_weekday("Marine Day", 7, MON, 3, since=2003, skip=GAMES),
    once("Marine Day", 2020, 7, 23),
    once("Marine Day", 2021, 7, 22),
    _sunday("Mountain Day", 8, 11, since=2016, skip=GAMES),
    _sunday("Mountain Day", 8, 10, since=2020, until=2020),
    _sunday("Mountain Day", 8, 8, since=2021, until=2021),
    _sunday("Respect for the Aged Day", 9, 15, since=1966, until=2002),
    on_weekday("Respect for the Aged Day", 9, MON, 3, since=2003),
    _equinox(9, 23.2488),
    _sunday("Sports Day", 10, 10, since=1966, until=1999),
    on_weekday("Sports Day", 10, MON, 2, since=2000, skip=GAMES),
    once("Sports Day", 2020, 7, 24),
    once("Sports Day", 2021, 7, 23),
    once("Enthronement Ceremony", 2019, 10, 22),
    _sunday("Culture Day", 11, 3),
    _sunday("Labour Thanksgiving Day", 11, 23),
)
_AMERICAN = (
    fixed("New Year's Day", 1, 1, shift=NEAREST),
    on_weekday("Birthday of Martin Luther King, Jr.", 1, MON, 3, since=1986),
    on_weekday("Washington's Birthday", 2, MON, 3),
    on_weekday("Memorial Day", 5, MON, -1),
    fixed("Juneteenth", 6, 19, since=2021, shift=NEAREST),
    fixed("Independence Day", 7, 4, shift=NEAREST),
    on_weekday("Labor Day", 9, MON, 1),
    on_weekday("Columbus Day", 10, MON, 2),
    fixed("Veterans Day", 11, 11, shift=NEAREST),
    on_weekday("Thanksgiving Day", 11, THU, 4),
    fixed("Christmas Day", 12, 25, shift=NEAREST),
)
_CANADIAN = (
    NEW_YEAR,
    GOOD_FRIDAY,
    from_date("Victoria Day", 5, 18, MON),
    fixed("Canada Day", 7, 1, shift=NEXT),
    on_weekday("Labour Day", 9, MON, 1),
    fixed("National Day for Truth and Reconciliation", 9, 30, since=2021, shift=NEXT),
    on_weekday("Thanksgiving Day", 10, MON, 2),
    fixed("Remembrance Day", 11, 11, shift=NEXT),
    CHRISTMAS,
    BOXING_DAY,
)
_AUSTRALIAN = (
    NEW_YEAR,
    fixed("Australia Day", 1, 26, shift=NEXT),
    GOOD_FRIDAY,
    EASTER_MONDAY,
    fixed("Anzac Day", 4, 25),
    once("National Day of Mourning", 2022, 9, 22),
    CHRISTMAS,
    BOXING_DAY,
)
_NEW_ZEALAND = (
    NEW_YEAR,
    fixed("Day after New Year's Day", 1, 2, shift=NEXT),
    fixed("Waitangi Day", 2, 6, until=2013),
    fixed("Waitangi Day", 2, 6, since=2014, shift=NEXT),
    GOOD_FRIDAY,
    EASTER_MONDAY,
    fixed("Anzac Day", 4, 25, until=2013),
    fixed("Anzac Day", 4, 25, since=2014, shift=NEXT),
    on_weekday("King's Birthday", 6, MON, 1),
    *(once("Matariki", year, month, day) for year, (month, day) in enumerate(MATARIKI, 2022)),
    once("Queen Elizabeth II Memorial Day", 2022, 9, 26),
    on_weekday("Labour Day", 10, MON, 4),
    CHRISTMAS,
    BOXING_DAY,
)
_BRAZILIAN = (
    fixed("Confraternização Universal", 1, 1),
    easter("Paixão de Cristo", -2),
    fixed("Tiradentes", 4, 21),
    fixed("Dia do Trabalho", 5, 1),
    fixed("Independência", 9, 7),
    fixed("Nossa Senhora Aparecida", 10, 12),
    fixed("Finados", 11, 2),
    fixed("Proclamação da República", 11, 15),
    fixed("Consciência Negra", 11, 20, since=2024),
    fixed("Natal", 12, 25),
)
# The three national holidays; the gazetted ones of the religions follow the moon.
_INDIAN = (fixed("Republic Day", 1, 26), fixed("Independence Day", 8, 15), fixed("Gandhi Jayanti", 10, 2))
OVERSEAS = {
    "AU": Calendar(_AUSTRALIAN),
    "BR": Calendar(_BRAZILIAN),
    "CA": Calendar(_CANADIAN),
    "IN": Calendar(_INDIAN),
    "JP": Calendar(_JAPANESE, bridged=True),
    "NZ": Calendar(_NEW_ZEALAND),
    "US": Calendar(_AMERICAN),
}
