"""Known and static inputs of a recorded series, from columns of its file."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from freshet.known import ahead
from model.covariates import Covariates
from model.spec import ModelSpec
from service.common.errors import Invalid
from service.programs.tables.names import chosen, listed
from service.programs.tables.recording import Recording

F64 = NDArray[np.float64]
KINDS = ("known", "static")
MOST_LEVELS = 32  # a known category with more categories is no regressor of the baselines: one column for each


def input_names(keys: dict[str, Any], recording: Recording) -> list[str]:
    """Return the names of the known and static inputs; a list as users write it becomes names in `keys`."""
    names: list[str] = []
    for kind in KINDS:
        if isinstance(keys.get(kind), str):
            keys[kind] = chosen(keys[kind], recording.table.header)
        given = keys.get(kind, ())
        names += [name for name in given if isinstance(name, str)] if isinstance(given, list | tuple) else []
    return names


def complete_keys(keys: dict[str, Any], recording: Recording) -> tuple[list[str], F64]:
    """Return the names of the known and static inputs and their columns [N, inputs]; keys: of a spec, modified.

    A column of texts is a category: its texts in sorted order are 0, 1, …, and
    `categories` gets its name and count. Raises Invalid, and TableError for a cell that is neither.
    """
    names = input_names(keys, recording)
    for name in names:
        if name not in recording.table.header:
            kind = "known" if name in keys.get("known", ()) else "static"
            raise Invalid(kind, name, recording.table.no_such(name))
    columns = np.empty((len(recording.table), len(names)))
    for i, name in enumerate(names):
        if recording.any_number([name]):
            (columns[:, i],) = recording.numbers([name], keys.get("missing") == "hold", "correct it").T
            continue
        cells = list(recording.table.cells(name))
        texts = sorted(set(cells))
        number = {text: float(n) for n, text in enumerate(texts)}
        columns[:, i] = [number[cell] for cell in cells]
        listed_before = keys.get("categories", ())
        declared = list(map(str, listed_before)) if isinstance(listed_before, list | tuple) else []
        if not any(text.rpartition(":")[0] == name for text in declared):
            keys["categories"] = [*declared, f"{name}:{max(2, len(texts))}"]
        recording.notes.append(f"{name} is a category: {listed(texts[:8])}{' …' if len(texts) > 8 else ''} are 0, 1 …")
    return names, columns


def sent(spec: ModelSpec, columns: F64, entity: str) -> NDArray[np.float32] | None:
    """Return what each row's tick sends beside its channels, [N, sent]; None for a model without covariates.

    columns: [N, inputs], known then static, of one entity. Known inputs of row t are the file's values of rows t + 1 to
    t + H, the last one held at the end. Raises Invalid for a static input that changes.
    """
    if not spec.sent:
        return None
    known, static = columns[:, : len(spec.known)], columns[:, len(spec.known) :]
    for name, values in zip(spec.static, static.T, strict=True):
        if not (values == values[0]).all():
            row = int((values != values[0]).argmax())
            of = f" of {entity}" if entity else ""
            remedy = f"it is {values[0]:g} in row 0 and {values[row]:g} in row {row}{of}: it is known, not static"
            raise Invalid("static", name, remedy)
    parts = [ahead(known, spec.horizon)] if spec.known else []
    return np.concatenate([*parts, static], axis=1).astype(np.float32)


def regressors(spec: ModelSpec, sent: NDArray[np.float32] | None) -> F64:
    """Return the known inputs of each row and step as regressors of the baselines, [N, H, k]; k = 0 without any.

    A number is the running z-score that the network reads, with the statistics of the rows so far; a category is a
    column of 0 and 1 for each of up to MOST_LEVELS categories. Static inputs are constant in a series, and so are in
    the intercept. sent: [N, sent], see `sent`.
    """
    if sent is None or not spec.known:
        return np.zeros((0 if sent is None else len(sent), spec.horizon, 0))
    made, H = Covariates(spec), spec.horizon
    raw, statistics = np.empty((len(sent), made.raw), np.float32), np.zeros((1, made.size), np.float32)
    for row in range(len(sent)):
        raw[row] = made.update(statistics, sent[row : row + 1])
    reals = len(made.reals)
    later = made.real_seen + len(made.tables)  # first column of the steps after the first
    steps = raw[:, later : later + (H - 1) * reals].reshape(len(raw), H - 1, reals)
    parts = [np.concatenate([raw[:, None, :reals], steps], axis=1, dtype=np.float64)]
    later += (H - 1) * reals
    for place, column in enumerate(made.ids):
        first, count = made.real_seen + place, int(made.count_of[column])
        each = raw[:, [first, *range(later + place * (H - 1), later + (place + 1) * (H - 1))]]  # [N, H]
        if count <= MOST_LEVELS:
            parts.append((each[:, :, None] == np.arange(count)).astype(np.float64))
    return np.concatenate(parts, axis=2)
