"""The error that every part of reading a table raises."""

from __future__ import annotations

from service.errors import Invalid


class TableError(Invalid):
    """The file cannot be read as it is. `field` names the row and column, `value` the cell, `remedy` what to do."""
