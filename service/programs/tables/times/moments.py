"""One cell as a moment: the numbers in it, before it is known which of them is the day."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Literal, NamedTuple

Order = Literal["year first", "by place", "named"]
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
OFFSETS = {  # hours; abbreviations of one meaning
    "z": 0, "utc": 0, "gmt": 0, "ut": 0, "wet": 0, "west": 1, "cet": 1, "mez": 1, "cest": 2, "mesz": 2, "eet": 2,
    "eest": 3, "msk": 3, "est": -5, "edt": -4, "cdt": -5, "mst": -7, "mdt": -6, "pst": -8, "pdt": -7, "jst": 9,
}  # fmt: skip
_NAME = r"(?P<month>[A-Za-z]{3,9})\.?"
_DATE = "|".join(
    (
        r"(?P<y>\d{4})(?P<s>[-/.])(?P<m>\d{1,2})(?:(?P=s)(?P<d>\d{1,2}))?",
        r"(?P<a>\d{1,2})(?P<t>[-/.])(?P<b>\d{1,2})(?P=t)(?P<c>\d{4}|\d{2})",
        rf"(?:[A-Za-z]{{3,9}},?\ )?(?P<d1>\d{{1,2}})(?:st|nd|rd|th)?[- /.]+{_NAME}[- /,.]+(?P<y1>\d{{4}}|\d{{2}})",
        rf"(?:[A-Za-z]{{3,9}},?\ )?{_NAME.replace('month', 'month2')}[- ]+"
        r"(?P<d2>\d{1,2})(?:st|nd|rd|th)?,?[- ]+(?P<y2>\d{4})",
        rf"(?P<y3>\d{{4}})[- /]{_NAME.replace('month', 'month3')}[- /](?P<d3>\d{{1,2}})",
        r"(?P<whole>\d{8})",
    )
)
_CLOCK = (
    r"(?P<hour>\d{1,2})(?:[:.h](?P<minute>\d{2})(?:[:.m](?P<second>\d{2})(?:[.,](?P<part>\d{1,12}))?s?)?)?"
    r"(?:\s*(?P<half>[AaPp])\.?[Mm]\.?)?"
)
_ZONE = (
    r"\s*(?:(?P<zone>[A-Za-z]{1,5}|[A-Za-z_]+/[A-Za-z_/+\-0-9]+))?"
    r"(?:(?P<sign>[+-])(?P<oh>\d{1,2}):?(?P<om>\d{2})?)?(?:\[(?P<region>[A-Za-z_/]+)\])?"
)
MOMENT = re.compile(rf"(?:{_DATE})(?:(?:\s*[Tt,_]\s*|\s+|:)(?:{_CLOCK}){_ZONE}|\s*(?P<z>[Zz]|UTC))?")
CLOCK = re.compile(_CLOCK)


class Moment(NamedTuple):
    """The numbers of a cell. parts: year, month and day if `order` determines them, otherwise in the cell's order.

    seconds: of the day, up to 86,400; None without a time of day. offset: seconds east of UTC; None without an offset.
    zone: the name of a zone whose offset depends on the date.
    """

    parts: tuple[int, int, int]
    order: Order
    mark: str  # between the numbers of a date by place
    seconds: float | None
    offset: float | None
    zone: str = ""


def moment(cell: str) -> Moment | None:
    """Return the moment in a cell's text; None for other text and for an impossible time, such as 25:00."""
    found = MOMENT.fullmatch(cell)
    if found is None:
        return None
    g = found.groupdict()
    dated = _dated(g)
    if dated is None:
        return None
    seconds = clock_seconds(g) if g["hour"] is not None else None
    if g["hour"] is not None and seconds is None:
        return None
    if seconds is not None and g["minute"] is None and g["half"] is None and dated[1] != "year first":
        return None  # 1/2/2021 10 is more likely two cells
    name = (g["zone"] or g["z"] or "").lower()
    hours = OFFSETS.get(name) if name else None
    offset = None if hours is None else 3600.0 * hours
    zone = "" if offset is not None else (g["region"] or g["zone"] or "")
    if g["sign"]:
        shift = 3600.0 * int(g["oh"] or 0) + 60 * int(g["om"] or 0)
        offset, zone = (offset or 0.0) + (shift if g["sign"] == "+" else -shift), ""
    return Moment(*dated, seconds, offset, zone)


def _dated(g: dict[str, str | None]) -> tuple[tuple[int, int, int], Order, str] | None:
    """Return year, month and day, or the three numbers of a date whose order is not known yet."""
    if g["y"]:
        return (int(g["y"]), int(g["m"] or 1), int(g["d"] or 1)), "year first", "-"
    if g["a"]:
        return (int(g["a"]), int(g["b"] or 0), int(g["c"] or 0)), "by place", str(g["t"])
    if g["whole"]:
        whole = g["whole"]
        return (int(whole[:4]), int(whole[4:6]), int(whole[6:])), "year first", "-"
    name = g["month"] or g["month2"] or g["month3"] or ""
    if name.lower()[:3] not in MONTHS:
        return None
    year = full_year(int(g["y1"] or g["y2"] or g["y3"] or 0))
    return (year, MONTHS.index(name.lower()[:3]) + 1, int(g["d1"] or g["d2"] or g["d3"] or 0)), "named", "-"


def full_year(year: int) -> int:
    """Return the year for two digits as POSIX reads them: 69 to 99 belong to the last century."""
    if year >= 100:
        return year
    return year + (1900 if year >= 69 else 2000)


def clock_seconds(g: dict[str, str | None]) -> float | None:
    """Return the seconds of the day for the parts of a clock time; None if impossible. 24:00 is the day's end."""
    hour, minute, second = int(g["hour"] or 0), int(g["minute"] or 0), int(g["second"] or 0)
    part = float(f"0.{g['part']}") if g["part"] else 0.0
    if half := g["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half in "Pp" else 0)
    seconds = 3600 * hour + 60 * minute + second + part
    return seconds if minute < 60 and second < 60 and seconds <= 86_400 else None


def clock(cell: str) -> float | None:
    """Return the seconds of the day of a cell with only a time, such as 17:24:00, 5 PM or 18.00.00; None for others."""
    found = CLOCK.fullmatch(cell)
    if found is None or not (found["minute"] or found["half"]):
        return None
    return clock_seconds(found.groupdict())


def day_number(year: int, month: int, day: int) -> int | None:
    """Return the days since 1970-01-01; None for an impossible date."""
    try:
        return date(year, month, day).toordinal() - EPOCH_DAY
    except ValueError:
        return None


EPOCH_DAY = date(1970, 1, 1).toordinal()
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  local times whose zone is not known yet
