"""One-line descriptions of the objects that a debugger or a notebook shows. Nothing here calls, waits or blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from freshet import forks
from freshet.errors import StreamClosed

T = TypeVar("T")

MOST_NUMBERS = 8  # a larger array is cut to AT_EACH_END entries at both ends of each axis
AT_EACH_END = 3
MOST_ROWS = 13
MOST_COLUMNS = 11


def state(*, opened: bool, connected: bool, welcomed: bool, closing: bool, error: Exception | None) -> str:
    """The state of a stream, Mux or sender in a word or two.

    opened: `open` was called. connected: a call is usable now. welcomed: one was before. error: why it ended.
    """
    if forks.forked():
        return "unusable after a fork"
    if error is not None and not isinstance(error, StreamClosed):
        return f"failed ({type(error).__name__})"
    if error is not None or (closing and not opened):
        return "closed"
    if not opened:
        return "not open"
    if closing:
        return "closing"
    if connected:
        return "open"
    return "reconnecting" if welcomed else "connecting"


def handle(name: str, state: str, *facts: str) -> str:
    """The description of an object that owns a connection: `<freshet.NAME: STATE, FACT, FACT>`."""
    return f"<freshet.{name}: {', '.join((state, *facts))}>"


def blocking(shown: str) -> str:
    """The description of the blocking twin of what `handle` described."""
    return shown.replace("<freshet.", "<freshet.sync.", 1)


def count(number: int, thing: str) -> str:
    """The number with its noun: "1 stream", "2 streams"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def numbers(values: npt.NDArray[Any]) -> str:
    """An array in one line, six digits per number; with its shape in front where entries are left out."""
    text = np.array2string(
        values, separator=", ", threshold=MOST_NUMBERS, edgeitems=AT_EACH_END, max_line_width=10_000,
        formatter={"float_kind": "{:.6g}".format},
    )  # fmt: skip
    text = " ".join(text.replace("...", "…").split())
    return text if values.size <= MOST_NUMBERS else f"{values.shape} {text}"


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table; of more than MOST_ROWS rows, or MOST_COLUMNS columns, the middle is left out.

    The texts are inserted as they are: give none that came from outside.
    """
    cut = [_ends(row, MOST_COLUMNS, "…") for row in _ends([list(row) for row in rows], MOST_ROWS, ["…"] * len(header))]
    head = "".join(f"<th>{text}</th>" for text in _ends(header, MOST_COLUMNS, "…"))
    body = "".join(f"<tr>{''.join(f'<td>{text}</td>' for text in row)}</tr>" for row in cut)
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _ends(items: Sequence[T], most: int, gap: T) -> list[T]:
    """The items, or the first and last ones with `gap` between them, `most` in all."""
    if len(items) <= most:
        return list(items)
    last = most // 2
    return [*items[: most - last - 1], gap, *items[-last:]]
