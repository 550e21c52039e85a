"""The error that every part of reading a table raises."""

from __future__ import annotations

from service.common.errors import Invalid


class TableError(Invalid):
    """The file cannot be read as it is. `field` names the row and column, `value` the cell, `remedy` what to do.

    Printed on a terminal, what a file holds is made printable and one line.
    """

    def __init__(self, field: str, value: object, remedy: str) -> None:
        super().__init__(printable(field), printable(str(value)), printable(remedy))


def printable(text: str) -> str:
    """Text in which line ends and other control characters are escapes, as Python writes them."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
