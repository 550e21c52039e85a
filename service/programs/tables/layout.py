"""From text to a table: comments, header, a row of units, unnamed columns, empty rows and columns."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from service.programs.tables.names import listed, quoted
from service.programs.tables.numbers import is_number, number
from service.programs.tables.separators import SAMPLE_ROWS, find_separator
from service.programs.tables.table import Table
from service.programs.tables.times.errors import TableError
from service.programs.tables.times.times import is_moment
from service.programs.tables.words import is_missing

INDEX_NAMES = ("", "unnamed: 0", "unnamed:0")  # pandas' names for its index column
MOST_TITLES = 20  # lines above the header
MAX_CELL = 1 << 20  # characters; the csv module's own limit is lower


class Line(NamedTuple):
    """A row's cells, stripped, and the number of its last line in the file."""

    number: int
    cells: list[str]


def lay_out(text: str, encoding: str = "UTF-8", separator: str | None = None, header: bool | None = None) -> Table:
    """Read a file's text as a table.

    separator: None detects it. header: whether the first row holds names; None checks it and refuses a row of data.
    Raises TableError.
    """
    text, separator = _declared_separator(text, separator)
    raw = io.StringIO(text, newline="")
    lines = list(raw)
    notes, skipped = [], 0
    separator = separator or find_separator([line for line in lines[: 4 * SAMPLE_ROWS] if not line.startswith("#")])
    rows = _rows(lines, separator)
    rows, skipped = _without_comments(rows)
    if skipped:
        notes.append(f"{skipped} comment lines left out")
    if header is None and rows:
        _check_header(rows)
    if header is False:
        names = Line(0, [f"column {n + 1}" for n in range(len(rows[0].cells) if rows else 0)])
        body = rows
    else:
        names, body = (rows[0], rows[1:]) if rows else (Line(0, []), [])
    names, body = _below_titles(names, body, notes) if header is None else (names, body)
    names = Line(names.number, [" ".join(cell.split()) for cell in names.cells])
    names, body, more = _even(names, body)
    notes += more
    if header is not False and _is_units(names.cells, body):
        units = listed([cell for cell in body[0].cells if cell])
        notes.append(f"line {body[0].number} holds units ({units}): left out")
        body = body[1:]
    if len(body) < 2:
        raise TableError("rows", len(body), "need a header and at least 2 rows of values")
    given, columns, empty = _named(names.cells, body, notes)
    if not given:
        raise TableError("header", listed(names.cells), "every cell is missing: nothing is left")
    lines_of = [row.number for row in body]
    return Table(given, columns, lines_of, separator, encoding, tuple(notes), tuple(empty))


def _declared_separator(text: str, separator: str | None) -> tuple[str, str | None]:
    """Read Excel's first line sep=; which declares the separator, and replace it by an empty line."""
    first, end, _ = text[:80].partition("\n")
    declared = first.strip().strip('"')
    if end and declared.lower().startswith("sep=") and len(declared) == 5:
        return "\n" + text[len(first) + 1 :], separator or declared[4]
    if end and first.rstrip("\r").lower() == "sep=\t":
        return "\n" + text[len(first) + 1 :], separator or "\t"
    return text, separator


def _rows(lines: Sequence[str], separator: str) -> list[Line]:
    """Return the rows that are not blank. Raises TableError for text that is not CSV."""
    csv.field_size_limit(MAX_CELL)
    reader = csv.reader(lines, delimiter=separator)
    try:
        return [Line(reader.line_num, [cell.strip() for cell in row]) for row in reader if row and any(row)]
    except csv.Error as error:
        remedy = f"not a CSV row ({error}): close its quotes"
        raise TableError(f"line {reader.line_num}", lines[reader.line_num - 1].strip(), remedy) from None


def _without_comments(rows: list[Line]) -> tuple[list[Line], int]:
    """Return the rows without comments, which start with #, and the number of comments.

    Below the header, a row that starts with # is a comment if it has another number of cells. The last comment above
    the data is the header if it has the data's number of cells, as NumPy and gnuplot write it.
    """
    top = next((n for n, row in enumerate(rows) if not row.cells[0].startswith("#")), len(rows))
    kept, body = [], rows[top:]
    if not body:
        return (rows, 0) if not top else ([], top)
    width = len(body[0].cells)
    data = any(is_moment(cell) or is_number(cell) for cell in body[0].cells)
    if top and len(rows[top - 1].cells) == width and data:
        head = rows[top - 1]
        kept, top = [Line(head.number, [head.cells[0].lstrip("# "), *head.cells[1:]])], top - 1
    inside = [row for row in body if not row.cells[0].startswith("#") or 1 < width == len(row.cells)]
    return kept + inside, top + len(body) - len(inside)


def _check_header(rows: Sequence[Line]) -> None:
    """Refuse a first row that is data: numbers, or cells with a time among them. 0,1,2 are names."""
    header = rows[0].cells
    filled = [cell for cell in header if not is_missing(cell)]
    numbers = [cell for cell in filled if number(cell.removesuffix("%"), ".") is not None]
    counted = [str(n) for n in range(len(header))], [str(n + 1) for n in range(len(header))]
    if header in counted:
        return
    dated = any(is_moment(cell) for cell in filled)
    if filled and (len(numbers) == len(filled) or (dated and len(numbers) + 1 >= len(filled) / 2)):
        remedy = "numbers and times, no names: put a line of column names above the rows, or give --no-header"
        raise TableError("header", ", ".join(header), remedy)


def _below_titles(names: Line, body: list[Line], notes: list[str]) -> tuple[Line, list[Line]]:
    """Return the header and the rows below it, without title lines, whose cells are mostly empty, above it."""
    for n, row in enumerate(body[:MOST_TITLES]):
        titled = [names, *body[:n]]
        if len(row.cells) < 2:
            continue
        if any(2 * sum(map(bool, line.cells)) > len(row.cells) for line in titled):
            break
        if all(row.cells) and not any(map(_is_value, row.cells)):
            notes.append(f"{n + 1} lines above the header left out")
            return row, body[n + 1 :]
    return names, body


def _even(names: Line, body: list[Line]) -> tuple[Line, list[Line], list[str]]:
    """Return names and rows of one length, without empty cells after the last name and without empty rows."""
    notes = []
    width = len(names.cells)
    empty = [row for row in body if not any(row.cells)]
    if empty:
        body = [row for row in body if any(row.cells)]
        notes.append(f"{len(empty)} rows without any value left out")
    made = []
    for row in body:
        if len(row.cells) > width and not any(row.cells[width:]):
            row = Line(row.number, row.cells[:width])
        if len(row.cells) != width:
            remedy = f"the header has {width}: complete the row, and quote cells that hold the separator"
            common = Counter(len(other.cells) for other in body).most_common(1)[0]
            if common[0] != width and common[1] > len(body) / 2:
                remedy = f"the first line has {width}, most rows have {common[0]}: leave out lines above the header"
            raise TableError(f"line {row.number}, number of cells", len(row.cells), remedy)
        made.append(row)
    return names, made, notes


def _is_units(names: Sequence[str], body: Sequence[Line]) -> bool:
    """Return whether the first row holds units: words where the next row has numbers and times."""
    if len(body) < 3 or len(names) < 2:
        return False
    first, second = body[0].cells, body[1].cells
    valued = [n for n, cell in enumerate(second) if _is_value(cell)]
    words = [first[n] for n in valued]
    return bool(valued) and any(words) and not any(_is_value(word) for word in words)


def _is_value(cell: str) -> bool:
    return bool(cell) and (number(cell.removesuffix("%"), ".") is not None or is_moment(cell))


def _named(
    header: list[str], body: Sequence[Line], notes: list[str]
) -> tuple[list[str], list[Sequence[str]], list[str]]:
    """Return names, columns, and the names of columns left out because every cell is missing.

    Unnamed columns get a name; a column that numbers the rows is left out.
    """
    columns: list[Sequence[str]] = list(zip(*(row.cells for row in body), strict=True))
    made: list[tuple[str, Sequence[str]]] = []
    empty: list[str] = []
    for place, (name, cells) in enumerate(zip(header, columns, strict=True), 1):
        if all(map(is_missing, cells)):
            notes.append(f"column {quoted(name) if name else place} is empty in every row: left out")
            empty.append(name)
        elif place == 1 and len(columns) > 1 and name.lower() in INDEX_NAMES and _is_numbering(cells):
            notes.append("column 1 numbers the rows: left out")
        else:
            made.append((name or f"column {place}", cells))
    count = Counter(name for name, _ in made).most_common(1)
    if count and count[0][1] > 1:
        raise TableError("header", count[0][0], f"{count[0][1]} columns have that name: give each its own")
    return [name for name, _ in made], [cells for _, cells in made], empty


def _is_numbering(cells: Sequence[str]) -> bool:
    """Return whether cells count up by one."""
    if not all(map(str.isdecimal, cells)):
        return False
    first = int(cells[0])
    return all(int(cell) == first + n for n, cell in enumerate(cells))
