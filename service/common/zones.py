"""Time zones by name: the rule in a zone's file, which a spec stores so that it depends on no machine."""

from __future__ import annotations

import difflib
import importlib.resources
import re
import zoneinfo
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from model.calendar.zone import ZoneError, parse
from model.spec import SpecError

# Names of IANA zones; a name is part of a path, so nothing else is looked up.
_NAME = re.compile(r"[A-Za-z0-9_+-]{1,32}(?:/[A-Za-z0-9_+-]{1,32}){0,3}")
MAX_FILE_BYTES = 1 << 17
GIVE = "give the name of a zone such as Europe/Berlin, or a POSIX rule such as CET-1CEST,M3.5.0,M10.5.0/3"


def resolved(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return keys of a spec, their zone as a POSIX rule if it is the name of a zone. Raises SpecError."""
    zone = keys.get("zone")
    return dict(keys) | ({"zone": rule_of(zone)} if isinstance(zone, str) and zone else {})


def rule_of(zone: str) -> str:
    """Return the POSIX rule of an IANA zone such as Europe/Berlin, by this machine's database; a rule as it is.

    The rule is that of the zone's future: times before its last change of rules get other offsets than the zone had.
    Raises SpecError for a name without a zone.
    """
    try:
        parse(zone)
    except ZoneError as error:
        if _NAME.fullmatch(zone) is None:
            raise SpecError("zone", zone, error.remedy if "," in zone else GIVE) from None
        return _by_name(zone)
    return zone


@lru_cache(maxsize=1024)
def _by_name(name: str) -> str:
    data = _file(name)
    if data is None:
        [near] = difflib.get_close_matches(name, _names(), n=1, cutoff=0.7) or [""]
        meant = f"did you mean {near}? Otherwise " if near else ""
        remedy = "" if _names() else " (this machine has no time zone database: install the package tzdata)"
        raise SpecError("zone", name, f"no zone of that name; {meant}{GIVE}{remedy}")
    rule = footer(data)
    try:
        parse(rule)
    except ZoneError:
        raise SpecError("zone", name, f"its file has no rule for the time to come: {GIVE}") from None
    return rule


def footer(data: bytes) -> str:
    """Return the POSIX rule at the end of a TZif file; empty without one. Source: RFC 8536, section 3.3."""
    if not data.startswith(b"TZif") or data[4:5] < b"2" or not data.endswith(b"\n"):
        return ""
    return data[:-1].rpartition(b"\n")[2].decode("ascii", "replace")


def _file(name: str) -> bytes | None:
    """Return the content of a zone's file: of the system's database, or else of the package tzdata."""
    for folder in zoneinfo.TZPATH:
        path = Path(folder, name)
        if path.is_file():
            return _read(path)
    try:
        found = importlib.resources.files("tzdata.zoneinfo").joinpath(*name.split("/"))
        return _read(found) if found.is_file() else None
    except (ModuleNotFoundError, OSError):
        return None


def _read(path: Any) -> bytes | None:
    with path.open("rb") as file:
        data: bytes = file.read(MAX_FILE_BYTES + 1)
    return data if data.startswith(b"TZif") and len(data) <= MAX_FILE_BYTES else None


@lru_cache(maxsize=1)
def _names() -> tuple[str, ...]:
    """Return the names of the zones of this machine."""
    return tuple(sorted(zoneinfo.available_timezones()))
