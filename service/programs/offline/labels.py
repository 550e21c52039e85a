"""Labels in columns of a history, for the tasks whose labels do not come from the stream."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.spec import ModelSpec, SpecError
from service.common.errors import Invalid
from service.programs.backtest.covariates import input_names
from service.programs.backtest.plan import ALL, chosen_columns
from service.programs.tables.names import chosen, listed
from service.programs.tables.recording import Recording
from service.programs.tables.table import Table
from service.programs.tables.words import is_unlabelled, own_words

LABELLED = ("regress", "classify")  # tasks whose labels come from outside
MOST_CLASSES = 1000  # detected from a column; one with more is more likely a number or a unique name per row


def complete_keys(keys: dict[str, Any], labels: str | None, columns: str, recording: Recording) -> list[str]:
    """Return the label columns, and set the keys that follow from them: targets or classes, and channels.

    keys: of a spec of task regress or classify, modified. labels: a list of names; None if targets name them. columns:
    as for `make_plan`. Raises Invalid, SpecError.
    """
    table = recording.table
    regress = keys["task"] == "regress"
    targets = keys.get("targets") if regress else None
    if targets is not None and not isinstance(targets, list):
        raise SpecError("targets", targets, "give a list")
    if labels is None and not targets:
        raise Invalid("labels", "", f"task {keys['task']} needs them: name their columns with --labels COLUMNS")
    names = chosen(labels, table.header) if labels is not None else list(targets or ())
    for name in names:
        if name not in table.header:
            raise Invalid("labels", name, table.no_such(name))
    if not regress and len(names) != 1:
        raise Invalid("labels", listed(names), "task classify has one column, with the name of the class")
    if regress and keys.setdefault("targets", names) != names:
        raise Invalid("labels", listed(names), f"the spec has targets {', '.join(map(str, targets or ()))}: give one")
    if not regress:
        keys.setdefault("classes", class_names(table, names[0], recording.options.missing))
    channels = recording.choose(chosen_columns(columns, keys.get("channels")))
    if columns == ALL and "channels" not in keys:
        inputs = input_names(keys, recording)
        channels = keys["channels"] = [name for name in channels if name not in (*names, *inputs)]
    for name in names:
        if name in channels:
            raise Invalid("labels", name, "is also a channel, which would reveal the answer: leave it out")
    return names


def read_labels(recording: Recording, columns: Sequence[str], spec: ModelSpec) -> list[NDArray[np.float32]]:
    """Return the label columns as the spec's outputs, [N, O] for each entity, NaN without a label. Raises Invalid."""
    table, words = recording.table, recording.options.missing
    if spec.classes:
        made = read_classes(table, columns[0], spec.classes, words)
    else:
        made = recording.numbers(columns, True, "correct it, or leave it empty where there is no label")
    return [entity.apply(made, mean=not spec.classes).astype(np.float32) for entity in recording.entities]


def check_labels(labels: Sequence[NDArray[np.float32]], cuts: Sequence[int], remedy: str) -> None:
    """Refuse a history without labels in its training or its held-out rows. labels: of each series. Raises Invalid."""
    known: list[NDArray[np.bool_]] = [np.asarray(np.isfinite(each).any(axis=1)) for each in labels]
    learned = np.concatenate([each[:cut] for each, cut in zip(known, cuts, strict=True)])
    held = np.concatenate([each[cut:] for each, cut in zip(known, cuts, strict=True)])
    for part, what in ((learned, "to learn from"), (held, "held out")):
        if len(part) and not part.any():
            raise Invalid("labels", 0, f"none of the {len(part)} rows {what} has one: {remedy}")


def class_names(table: Table, column: str, words: Collection[str] = ()) -> list[str]:
    """Return the classes in a column, sorted. words: additional ones for no label. Raises Invalid for other columns."""
    own = own_words(words)
    names = sorted({cell for cell in table.cells(column) if not is_unlabelled(cell, own)})
    if not 2 <= len(names) <= MOST_CLASSES:
        remedy = f"the column has {len(names)} different values, and classes are 2 to {MOST_CLASSES}: name another"
        raise Invalid("labels", column, remedy)
    return names


def read_classes(table: Table, column: str, classes: Sequence[str], words: Collection[str] = ()) -> NDArray[np.float64]:
    """Return a column of class names as probabilities [N, O], NaN where a cell is missing. Raises Invalid."""
    place, own = {name: o for o, name in enumerate(classes)}, own_words(words)
    made = np.full((len(table), len(classes)), np.nan)
    for n, cell in enumerate(table.cells(column)):
        if cell in place:
            made[n] = 0
            made[n, place[cell]] = 1
        elif not is_unlabelled(cell, own):
            raise table.refuse(n, column, f"no such class: they are {', '.join(classes)}")
    return made
