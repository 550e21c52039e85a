"""The separator of a table's cells, detected from its first lines."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from itertools import islice

from service.programs.tables.words import is_missing

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}  # the former wins a tie
SAMPLE_ROWS = 100


def find_separator(lines: Sequence[str]) -> str:
    """Return the separator with which most rows have the same number of cells, and most cells hold values.

    lines: of the file, without comments. Returns a comma if no separator gives more than one cell.
    """
    return max(SEPARATORS, key=lambda separator: _fit(lines, separator))


def _fit(lines: Sequence[str], separator: str) -> tuple[float, float, int]:
    """Return how well a separator fits: share of equal rows × (½ + share of values), share of values, cells per row."""
    try:
        rows = [row for row in islice(csv.reader(lines, delimiter=separator), SAMPLE_ROWS) if row]
    except csv.Error:
        return 0.0, 0.0, 0
    width = Counter(map(len, rows)).most_common(1)[0][0] if rows else 0
    if width < 2:
        return 0.0, 0.0, 0
    body = rows[1:] or rows
    alike = sum(len(row) in (width, width + 1) for row in body) / len(body)
    cells = [cell.strip() for row in body for cell in row]
    valued = sum(looks_like_a_value(cell) for cell in cells) / max(1, len(cells))
    return alike * (0.5 + valued), valued, width


def looks_like_a_value(cell: str) -> bool:
    """Return whether a cell is missing, or a third or more of its characters are digits, as in numbers and times."""
    if is_missing(cell):
        return True
    digits = sum(c.isdigit() for c in cell)
    return digits > 0 and not any(c in ",;\t|" for c in cell.replace(",", "", 1)) and digits * 3 >= len(cell)
