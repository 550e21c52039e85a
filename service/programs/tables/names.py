"""Column names as people write them: a list is a line of CSV, and a name that matches whole goes first."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Sequence


def quoted(name: str) -> str:
    """A name as it is written in a list: in quotes where a comma, a quote or a space at its ends would mislead."""
    if name and name == name.strip() and not any(c in name for c in ',"'):
        return name
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def listed(names: Sequence[str]) -> str:
    """Names as a list that `chosen` reads back."""
    return ", ".join(map(quoted, names))


def chosen(text: str, header: Sequence[str]) -> list[str]:
    """The names in a list, in its order; those that no column has are as they were written.

    The whole text is a name if a column has it. Otherwise it is a line of CSV; a run of its cells that together are a
    name, and are none alone, is that name: Power, kW needs no quotes where nothing else is meant.
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
    """The remedy for a name that no column has."""
    close = difflib.get_close_matches(name, header, 1)
    lowered = [column for column in header if column.lower() == name.lower()]
    meant = (lowered or close or [""])[0]
    hint = f"; did you mean {quoted(meant)}?" if meant else ""
    return f"no such column: the file has {listed(header)}{hint}"
