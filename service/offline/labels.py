"""Labels in columns of a history, for the tasks that do not read them off the stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.spec import ModelSpec, SpecError
from service.backtest.plan import chosen_columns
from service.backtest.series import Table, is_missing, is_number
from service.errors import Invalid
from service.sequence import MAX_MAGNITUDE

LABELLED = ("regress", "classify")  # tasks whose labels come from outside
MOST_CLASSES = 1000  # found by itself; a column with more is rather a number, or a name of its own for each row


def settle_keys(keys: dict[str, Any], labels: str | None, columns: str, table: Table, time: str | None) -> list[str]:
    """The label columns, and what follows from them for the spec: targets or classes, and channels.

    keys: of a spec of task regress or classify, changed. labels: "a,b,…", None where targets say it. columns: as of
    `make_plan`. Raises Invalid, SpecError.
    """
    regress = keys["task"] == "regress"
    targets = keys.get("targets") if regress else None
    if targets is not None and not isinstance(targets, list):
        raise SpecError("targets", targets, "give a list")
    if labels is None and not targets:
        raise Invalid("labels", "", f"task {keys['task']} needs them: say which columns hold them, --labels COLUMNS")
    names = [name.strip() for name in labels.split(",")] if labels is not None else list(targets or ())
    for name in names:
        if name not in table.header:
            raise Invalid("labels", name, f"no such column: the file has {', '.join(table.header)}")
    if not regress and len(names) != 1:
        raise Invalid("labels", ", ".join(names), "task classify has one column, with the name of the class")
    if regress and keys.setdefault("targets", names) != names:
        raise Invalid("labels", ", ".join(names), f"the spec has targets {', '.join(map(str, targets or ()))}: say one")
    if not regress:
        keys.setdefault("classes", class_names(table, names[0]))
    channels = chosen_columns(columns, keys.get("channels"))
    if channels is None:
        channels = keys["channels"] = [name for name in table.header if name not in (*names, time)]
    for name in names:
        if name in channels:
            raise Invalid("labels", name, "is also a channel, which would tell the answer: leave it out of the columns")
    return names


def read_labels(table: Table, columns: Sequence[str], spec: ModelSpec) -> NDArray[np.float32]:
    """The label columns as the spec's outputs, NaN where a row has none: [N, O]. Raises Invalid."""
    return read_classes(table, columns[0], spec.classes) if spec.classes else read_values(table, columns)


def check_labels(labels: NDArray[np.float32], train_ticks: int, remedy: str) -> None:
    """Refuse a history without any label to learn from, or to judge by. Raises Invalid."""
    known: NDArray[np.bool_] = np.asarray(np.isfinite(labels).any(axis=1))
    for part, what in ((known[:train_ticks], "to learn from"), (known[train_ticks:], "held out")):
        if len(part) and not part.any():
            raise Invalid("labels", 0, f"none of the {len(part)} rows {what} has one: {remedy}")


def class_names(table: Table, column: str) -> list[str]:
    """The classes in a column, sorted. Raises Invalid for a column that cannot be one of classes."""
    names = sorted({cell for cell in table.cells(column) if not is_missing(cell)})
    if not 2 <= len(names) <= MOST_CLASSES:
        remedy = f"the column has {len(names)} different values, and classes are 2 to {MOST_CLASSES}: name another"
        raise Invalid("labels", column, remedy)
    return names


def read_values(table: Table, columns: Sequence[str]) -> NDArray[np.float32]:
    """Columns of numbers, NaN where a cell is missing: [N, O]. Raises Invalid."""
    made = np.full((len(table.rows), len(columns)), np.nan, np.float32)
    for o, column in enumerate(columns):
        for n, cell in enumerate(table.cells(column)):
            if is_missing(cell):
                continue
            if not is_number(cell):
                raise table.refuse(n, column, "not a number: correct it, or leave it empty where there is no label")
            if not math.isfinite(float(cell)) or abs(float(cell)) > MAX_MAGNITUDE:
                raise table.refuse(n, column, f"need a finite number of at most {MAX_MAGNITUDE:g}: correct it")
            made[n, o] = float(cell)
    return made


def read_classes(table: Table, column: str, classes: Sequence[str]) -> NDArray[np.float32]:
    """A column of class names as probabilities, NaN where a cell is missing: [N, O]. Raises Invalid."""
    place = {name: o for o, name in enumerate(classes)}
    made = np.full((len(table.rows), len(classes)), np.nan, np.float32)
    for n, cell in enumerate(table.cells(column)):
        if cell in place:
            made[n] = 0
            made[n, place[cell]] = 1
        elif not is_missing(cell):
            raise table.refuse(n, column, f"no such class: they are {', '.join(classes)}")
    return made
