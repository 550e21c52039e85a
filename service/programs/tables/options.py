"""Options for reading a file where its content is ambiguous."""

from __future__ import annotations

from dataclasses import dataclass

from service.programs.tables.separators import SEPARATORS
from service.programs.tables.times.errors import TableError
from service.programs.tables.times.numeric_times import FORMS
from service.programs.tables.times.order import Duplicates

DECIMALS = {"point": ".", "comma": ","}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to read a file; None detects it.

    separator: one character, or "tab". time: columns with the time of a row, as a list. time_format: a key of FORMS.
    zone: of times without one. decimal: "point" or "comma". missing: additional words for a missing value. sort,
    duplicates: see `put_in_order`. id: the column that names the entity of each row.
    """

    separator: str | None = None
    header: bool | None = None
    time: str | None = None
    time_format: str | None = None
    day_first: bool | None = None
    zone: str | None = None
    decimal: str | None = None
    missing: tuple[str, ...] = ()
    sort: bool = False
    duplicates: Duplicates = "refuse"
    id: str | None = None

    def __post_init__(self) -> None:
        """Check each option. Raises TableError."""
        for name, value, good in (
            ("time_format", self.time_format, tuple(FORMS)),
            ("decimal", self.decimal, tuple(DECIMALS)),
            ("duplicates", self.duplicates, ("refuse", "last", "mean")),
        ):
            if value is not None and value not in good:
                raise TableError(name, value, f"give one of {', '.join(good)}")
        if self.separator is not None and len(self.mark or "") != 1:
            raise TableError("separator", self.separator, "give one character, or tab")

    @property
    def mark(self) -> str | None:
        """The separator as a character; None to detect it."""
        names = {name: mark for mark, name in SEPARATORS.items()}
        return None if self.separator is None else names.get(self.separator, self.separator)


DEFAULT = Options()
