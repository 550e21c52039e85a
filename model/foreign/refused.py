"""The error of an import."""

from __future__ import annotations

from typing import Any

SHOWN_CHARACTERS = 120


class ForeignError(ValueError):
    """Something that cannot be imported: the name of a tensor, node or key; its value; and the remedy."""

    def __init__(self, field: str, value: object, remedy: str) -> None:
        text = value if isinstance(value, str) else repr(value)
        self.field, self.value, self.remedy = _cut(field), _cut(text), remedy
        super().__init__(f"{self.field} = {self.value}: {remedy}")


def names(values: object) -> str:
    """Return names as a text of bounded length."""
    return _cut(", ".join(map(str, values)) if isinstance(values, list | tuple) else str(values))


def node_name(node: Any) -> str:
    """Return the name of a node of a graph, or of its first output."""
    return str(node.name or next(filter(None, node.output), "?"))


def _cut(text: str) -> str:
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"
