"""Column names as users write them: a list is a line of CSV, but a text that equals a name is that name."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Sequence


def quoted(name: str) -> str:
    """Return a name as it is written in a list, in quotes if it has a comma, a quote or spaces at its ends."""
    if name and name == name.strip() and not any(c in name for c in ',"'):
        return name
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def listed(names: Sequence[str]) -> str:
    """Return names as a list that `chosen` reads back."""
    return ", ".join(map(quoted, names))


def chosen(text: str, header: Sequence[str]) -> list[str]:
    """Return the names in a list, in its order; a name that no column has is returned as written.

    A text that equals a column's name is that name. Otherwise it is a line of CSV, in which consecutive cells that
    together are a name, and alone are not, are that name: Power, kW needs no quotes unless it is ambiguous.
    """
    if text.strip() in header:
        return [text.strip()]
    try:
        cells = [cell.strip() for cell in next(csv.reader([text], skipinitialspace=True), [])]
    except csv.Error:
        cells = [cell.strip() for cell in text.split(",")]
    if all(cell in header for cell in cells):
        return cells
    spaced = {"".join(name.split()): name for name in header}  # the spaces after commas are gone
    made, at = [], 0
    while at < len(cells):
        for end in range(len(cells), at, -1):
            joined = "".join(",".join(cells[at:end]).split())
            name = cells[at] if end == at + 1 else spaced.get(joined)
            if name is not None:
                made.append(name)
                at = end
                break
    return made


def no_such(name: str, header: Sequence[str]) -> str:
    """Return the remedy for a name that no column has."""
    close = difflib.get_close_matches(name, header, 1)
    lowered = [column for column in header if column.lower() == name.lower()]
    meant = (lowered or close or [""])[0]
    hint = f"; did you mean {quoted(meant)}?" if meant else ""
    return f"no such column: the file has {listed(header)}{hint}"
