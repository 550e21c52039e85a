"""The error that every part of reading a table raises."""

from __future__ import annotations

from service.common.errors import Invalid


class TableError(Invalid):
    """The file cannot be read as it is. `field` names the row and column, `value` the cell, `remedy` what to do.

    Text from the file is made printable, in one line.
    """

    def __init__(self, field: str, value: object, remedy: str) -> None:
        super().__init__(printable(field), printable(str(value)), printable(remedy))


def printable(text: str) -> str:
    """Return text with line ends and other control characters escaped as Python escapes them."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
