"""Times in messages: seconds since 1970 as a date in UTC, so that a wrong unit or a wrong clock is seen at once."""

from __future__ import annotations

from datetime import UTC, datetime


def as_date(seconds: float) -> str:
    """A time such as 2014-07-01T00:30:00Z; as a number where no calendar reaches."""
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g}"
    return moment.isoformat(timespec="seconds" if moment.microsecond == 0 else "milliseconds").replace("+00:00", "Z")
