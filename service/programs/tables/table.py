"""A table as text: named columns of cells, and the line of each row in the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.programs.tables.names import no_such, quoted
from service.programs.tables.times.errors import TableError


@dataclass(frozen=True, slots=True)
class Table:
    """The cells of a file as text, stripped.

    columns: one per name of the header, N cells each. lines: the last line of each row in the file, counted from 1.
    separator, encoding: how the file was read. notes: what was left out, as text. empty: names of columns that were
    left out because every cell is missing.
    """

    header: list[str]
    columns: list[Sequence[str]]
    lines: list[int]
    separator: str = ","
    encoding: str = "UTF-8"
    notes: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.lines)

    def cells(self, column: str) -> Sequence[str]:
        """Return the cells of one column, top to bottom."""
        return self.columns[self.header.index(column)]

    def no_such(self, name: str) -> str:
        """Return the remedy for a name that no column has."""
        return "every cell of it is missing: leave it out" if name in self.empty else no_such(name, self.header)

    def refuse(self, row: int, column: str, remedy: str) -> TableError:
        """Return the error that names one cell."""
        where = f"row {row} (line {self.lines[row]}), column {quoted(column)}"
        return TableError(where, self.cells(column)[row], remedy)
