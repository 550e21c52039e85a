"""Local times to UTC, with the hour that is repeated when summer time ends and the one skipped when it begins."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Sequence
from datetime import UTC, timedelta, timezone, tzinfo

import numpy as np
from numpy.typing import NDArray

from service.programs.tables.times.errors import TableError
from service.programs.tables.times.moments import EPOCH

_OFFSET = re.compile(r"(?:UTC|GMT)?([+-])(\d{1,2})(?::?(\d{2}))?")


def zone_of(text: str) -> tzinfo:
    """Return the zone for a name such as Europe/Berlin or an offset such as +01:00. Raises TableError."""
    if text.upper() in ("UTC", "Z", "GMT"):
        return UTC
    if found := _OFFSET.fullmatch(text):
        shift = timedelta(hours=int(found[2]), minutes=int(found[3] or 0))
        if shift < timedelta(hours=24):
            return timezone(shift if found[1] == "+" else -shift)
    try:
        return zoneinfo.ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise TableError("zone", text, "give a zone such as Europe/Berlin, UTC, or an offset such as +01:00") from None


def to_utc(local: NDArray[np.float64], zone: tzinfo) -> NDArray[np.float64] | tuple[int, str]:
    """Return local times (N,), seconds, as UTC; or the first row whose time does not exist in the zone, and why.

    When the clock is set back, a time occurs twice. The one is chosen whose step from the row before is nearer to the
    usual step; in unordered rows, the first row with that time is the first and the second row the second.
    """
    early, late, missing = _both(local, zone)
    if missing is not None:
        return (
            missing,
            f"there is no such time in {zone}, where the clock is set forward: give the zone of the clock",
        )
    twice = early != late
    if not twice.any():
        return early
    made, usual = early.copy(), float(np.median(np.diff(local)))
    for n in np.flatnonzero(twice):
        before = made[n - 1] if n else early[n] - usual
        if early[n] <= before or abs(late[n] - before - usual) < abs(early[n] - before - usual):
            made[n] = late[n]
    if not (np.diff(made) > 0).all():
        made = early.copy()
        seen: set[float] = set()
        for n in np.flatnonzero(twice):
            made[n] = late[n] if early[n] in seen else early[n]
            seen.add(float(early[n]))
    return made


def each_to_utc(local: NDArray[np.float64], names: Sequence[str]) -> NDArray[np.float64] | tuple[int, str]:
    """Return local times (N,) as UTC, each in the zone named in its cell; or the first row with an unknown zone."""
    if len(set(names)) == 1:
        return _named(local, names[0])
    made = np.empty(len(local))
    for name in dict.fromkeys(names):
        rows = np.flatnonzero([n == name for n in names])
        found = _named(local[rows], name)
        if isinstance(found, tuple):
            return int(rows[found[0]]), found[1]
        made[rows] = found
    return made


def _named(local: NDArray[np.float64], name: str) -> NDArray[np.float64] | tuple[int, str]:
    try:
        zone = zoneinfo.ZoneInfo(name) if "/" in name else None
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        zone = None
    if zone is None:
        return 0, f"zone {name} is not one zone's name: write an offset such as +02:00, or none and give --zone"
    return to_utc(local, zone)


def _both(local: NDArray[np.float64], zone: tzinfo) -> tuple[NDArray[np.float64], NDArray[np.float64], int | None]:
    """Return the earlier and the later moment of each local time, (N,) each; and the first row that does not exist."""
    early, late = np.empty(len(local)), np.empty(len(local))
    offsets: dict[float, tuple[float, float] | None] = {}  # by quarter of an hour: no clock is changed within one
    for n, seconds in enumerate(local.tolist()):
        quarter = seconds // 900
        if quarter not in offsets:
            offsets[quarter] = _offsets(quarter * 900, zone)
        found = offsets[quarter]
        if found is None:
            return early, late, n
        early[n], late[n] = seconds - found[0], seconds - found[1]
    return early, late, None


def _offsets(seconds: float, zone: tzinfo) -> tuple[float, float] | None:
    """Return the seconds east of UTC at a local time's first and second occurrence; None if it does not exist."""
    moment = EPOCH + timedelta(seconds=seconds)
    both = []
    for fold in (0, 1):
        shift = moment.replace(tzinfo=zone, fold=fold).utcoffset()
        both.append(shift.total_seconds() if shift is not None else 0.0)
    if both[0] < both[1]:  # the offset grows, so local times are skipped
        back = (moment - timedelta(seconds=both[0])).replace(tzinfo=UTC).astimezone(zone).replace(tzinfo=None)
        if back != moment:
            return None
    return both[0], both[1]
