"""Markdown tables."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table. In cells, `|` is escaped and a line break becomes a space."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell(value) for value in line)} |\n" for line in lines)


def cell(value: object) -> str:
    """Return a value as the text of a cell."""
    return " ".join(str(value).split()).replace("|", "\\|")


def code(text: object) -> str:
    """Return text in backticks, or an empty string if it is empty."""
    return f"`{text}`" if str(text) else ""
