"""Progress on standard error: a bar on a terminal, otherwise a plain line every ten per cent."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol

LINES = 10  # printed without a terminal


class Progress(Protocol):
    """The progress of a loop."""

    def advance(self) -> None:
        """Count one row."""
        ...

    def note(self, text: str) -> None:
        """Print a line."""
        ...


@contextlib.contextmanager
def progress(label: str, rows: int, unit: str = "row") -> Iterator[Progress]:
    """Show the progress of a loop over `rows` rows, or other units."""
    if sys.stderr.isatty():
        with _bar(label, rows) as bar:
            yield bar
    else:
        yield _Lines(label, rows, unit)


class _Lines:
    def __init__(self, label: str, rows: int, unit: str) -> None:
        self._label, self._rows, self._unit, self._done = label, rows, unit, 0

    def advance(self) -> None:
        before, self._done = self._done * LINES // self._rows, self._done + 1
        if self._done * LINES // self._rows > before:
            self.note(f"{self._label}: {self._unit} {self._done} of {self._rows}")

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _bar(label: str, rows: int) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    class Bar:
        def advance(self) -> None:
            shown.advance(task)

        def note(self, text: str) -> None:
            shown.console.print(text, markup=False, highlight=False)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(label, total=rows)
        yield Bar()
