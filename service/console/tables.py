"""Output of the command line: tables on terminals, aligned plain lines for pipes, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from google.protobuf.message import Message

if TYPE_CHECKING:
    from freshet.messages import Result

CUT = 120  # characters of one cell


def plain(result: Result | Message) -> dict[str, Any]:
    """Return a result of the SDK, or a message, as JSON values: fields and enums by name, None for a field not set."""
    if isinstance(result, Message):
        return {field.name: _field(result, field) for field in result.DESCRIPTOR.fields}
    return {field.name: _value(getattr(result, field.name)) for field in dataclasses.fields(cast("Any", result))}


def _value(value: Any) -> Any:
    from freshet.messages import Result, WireEnum

    if isinstance(value, WireEnum):
        return value.name if value.name in type(value).__members__ else int(value)
    if isinstance(value, tuple):
        return [_value(item) for item in value]
    if isinstance(value, Mapping):
        return dict(value)
    return plain(value) if isinstance(value, Result) else value


def _field(message: Any, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [plain(v) if isinstance(v, Message) else v for v in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name if value in field.enum_type.values_by_number else value
    return plain(value) if isinstance(value, Message) else value


def print_json(value: Any, *, line: bool = False) -> None:
    """Print the value as JSON; line: all on one line."""
    print(json.dumps(value, indent=None if line else 2, ensure_ascii=False), flush=line)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Print a table; without a terminal, plain aligned lines, the first with the names."""
    cells = [[shown(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(columns, cells, title)
        return
    if title:
        print(f"{title}:")
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in [columns, *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_facts(facts: Mapping[str, object]) -> None:
    """Print one fact per line, aligned."""
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name.ljust(width)}  {shown(value)}".rstrip())


def shown(value: object) -> str:
    """Return a value as one line of text, at most CUT characters; empty for None."""
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    text = "".join(c if c.isprintable() else "?" for c in text)  # text from a server must not control the terminal
    return text if len(text) <= CUT else text[: CUT - 1] + "…"


def _print_rich(columns: Sequence[str], cells: Sequence[Sequence[str]], title: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=SIMPLE_HEAD, title=title or None, title_justify="left")
    for row in cells:
        table.add_row(*map(Text, row))  # as Text, because a name may look like markup
    Console().print(table)
