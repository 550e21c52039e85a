"""Known inputs of a tick: the values for the steps that are forecast, from what users have to what the wire has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from freshet.arguments import invalid, number
from freshet.errors import InvalidArgument
from freshet.frames import F64, check_names, matrix, named_columns, plain

LARGEST = 1e15


def ahead(values: F64, horizon: int) -> F64:
    """Return what each row's tick sends, [N, horizon × K], of the inputs' values at each row [N, K].

    Step h of row t is the value at row t + h; after the end the last value is held.
    """
    rows = np.arange(len(values))[:, None] + np.arange(1, horizon + 1)
    sent: F64 = values[np.minimum(rows, len(values) - 1)].reshape(len(values), -1)
    return sent


def rows_ahead(known: Any, names: Sequence[str], horizon: int, rows: int) -> F64:
    """Return `ahead` of a frame or mapping of columns by name, or of an array [N, K] ((N,) for one input).

    Raises InvalidArgument for other names and shapes.
    """
    columns = named_columns(known)
    values = np.asarray(plain(known) if columns is None else matrix(columns, names, "known"), np.float64)
    if values.ndim == 1 and len(names) == 1:
        values = values[:, None]
    if values.shape != (rows, len(names)):
        remedy = f"give [{rows}, {len(names)}]: a row per tick, a value of each of {', '.join(names)}"[:200]
        raise InvalidArgument(f"known has shape {values.shape}; {remedy}", "known", str(values.shape), remedy)
    return ahead(values, horizon)


def of_ticks(known: Any, names: Sequence[str], horizon: int, n: int) -> F64:
    """Return [n, horizon × K], step 1 first, of an array of n × horizon × K values in any shape that has their order,
    or of a mapping from each name to n × horizon values.

    Raises InvalidArgument for other names and numbers of values.
    """
    try:
        if isinstance(known, Mapping):
            check_names(list(known), names, "known")
            found = np.stack([np.asarray(known[name], np.float64).reshape(n, horizon) for name in names], axis=2)
        else:
            found = np.asarray(known, np.float64)
        return found.reshape(n, horizon * len(names))
    except (TypeError, ValueError) as error:
        if isinstance(error, InvalidArgument):
            raise
        shape = f"{n} × {horizon} × {len(names)}" if n > 1 else f"{horizon} × {len(names)}"
        remedy = f"give {shape} numbers: for each step ahead, step 1 first, a value of {', '.join(names)}"[:200]
        raise invalid("known", known, remedy) from None


def sent_names(known: Sequence[str], static: Sequence[str], horizon: int) -> tuple[str, ...]:
    """Return the names of what is sent beside a tick's channels: k, or k+1, k+2 … above horizon 1, then static ones."""
    steps = [f"{name}+{h}" if horizon > 1 else name for h in range(1, horizon + 1) for name in known]
    return (*steps, *static)


def static_values(static: object) -> dict[str, float]:
    """Return a stream's static inputs by name. Raises InvalidArgument unless it is a mapping of names to numbers."""
    if static is None:
        return {}
    if not isinstance(static, Mapping) or not all(isinstance(name, str) for name in static):
        raise invalid("static", static, "give a mapping from the names of the static inputs to numbers")
    return {name: float(number(value, f"static.{name}")) for name, value in static.items()}
