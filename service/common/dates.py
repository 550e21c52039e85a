"""Times in messages: seconds since 1970 as a UTC date, so that a wrong unit or clock is visible at once."""

from __future__ import annotations

from datetime import UTC, datetime


def as_date(seconds: float) -> str:
    """Return a time as 2014-07-01T00:30:00Z, or as a number if it lies outside the calendar."""
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g}"
    return moment.isoformat(timespec="seconds" if moment.microsecond == 0 else "milliseconds").replace("+00:00", "Z")
