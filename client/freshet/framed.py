"""Forecasts as a frame of the source's library: its index or times, and a column per target and step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import methodcaller
from typing import Any

import numpy as np
import numpy.typing as npt

from freshet.bounds import percent
from freshet.errors import InvalidArgument
from freshet.forecast import Forecast
from freshet.frames import named_columns, plain
from freshet.results import ModelSpec

TIME = "time"  # the column for times without a name


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows as ticks, or an object that yields them; and the function that makes a frame of their forecasts, or None."""

    ticks: Any
    frame: Callable[[Mapping[str, Any]], Any] | None


def framer(values: Any, times: Any) -> Callable[[Mapping[str, Any]], Any] | None:
    """Return a function that makes a frame of columns, in the library and with the index or times of `values`.

    values, times: as for `Stream.forecasts`. None if values is not a frame, or if times can be iterated over only once.
    """
    if times is not None and not hasattr(times, "__len__"):
        return None
    if hasattr(values, "iloc") and hasattr(values, "index"):  # pandas and similar
        return _pandas(values, times)
    if isinstance(values, Mapping):
        return _with_times(values, times, lambda columns: columns)
    kind = type(values)
    if hasattr(kind, "from_pydict"):  # pyarrow
        return _with_times(values, times, kind.from_pydict)
    if hasattr(values, "to_frame") and hasattr(values, "to_numpy"):  # polars series
        return _with_times(values, times, type(values.to_frame()))
    if hasattr(values, "columns") and hasattr(values, "to_numpy"):  # polars
        return _with_times(values, times, kind)
    return None


def _pandas(values: Any, times: Any) -> Callable[[Mapping[str, Any]], Any]:
    kind = type(values.to_frame()) if hasattr(values, "to_frame") else type(values)
    index = values.index
    if isinstance(times, str):
        index = values.set_index(times).index
    elif times is not None:
        index = kind(index=_moments(times)).index

    def make(columns: Mapping[str, Any]) -> Any:
        n = len(next(iter(columns.values())))
        return kind(dict(columns), index=index[:n])

    return make


def _with_times(values: Any, times: Any, make: Callable[[dict[str, Any]], Any]) -> Callable[[Mapping[str, Any]], Any]:
    """Make frames of libraries without an index: the times, if any, are the first column."""
    first: dict[str, Any] = {}
    if isinstance(times, str):
        first = {times: (named_columns(values) or {})[times]}
    elif times is not None:
        first = {TIME: _moments(times)}

    def whole(columns: Mapping[str, Any]) -> Any:
        n = len(next(iter(columns.values())))
        return make({name: column[:n] for name, column in first.items()} | dict(columns))

    return whole


def _moments(times: Any) -> Any:
    """Return times that were given separately and have a length."""
    if hasattr(times, "__array__"):
        return plain(times)
    return list(times)


def columns_of(spec: ModelSpec, outcomes: Sequence[Forecast | None]) -> dict[str, npt.NDArray[Any]]:
    """Return a column per target or class and step ahead; NaN for a refused row.

    A column has the name of its target if the model forecasts one step; NAME+H for H steps ahead otherwise. For each
    level of prediction intervals, columns with _lower90 and _upper90 appended (for 90 %) follow.
    """
    names = tuple(spec.classes or spec.targets or spec.channels)
    horizon = spec.horizon or 1
    nothing = np.full((horizon, len(names)), np.nan, np.float32)

    def columns(end: str, of: Callable[[Forecast], npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        given = [nothing if outcome is None else of(outcome) for outcome in outcomes]
        values = np.stack(given) if given else np.zeros((0, horizon, len(names)), np.float32)
        return {
            (name if horizon == 1 else f"{name}+{h + 1}") + end: np.ascontiguousarray(values[:, h, i])
            for i, name in enumerate(names)
            for h in range(horizon)
        }

    made = columns("", lambda forecast: forecast.y)
    for level in spec.intervals:
        made |= columns(f"_lower{percent(level)}", methodcaller("lower", level))
        made |= columns(f"_upper{percent(level)}", methodcaller("upper", level))
    return made


def no_frame() -> InvalidArgument:
    """Return the refusal to make a frame of a source that is not a frame."""
    remedy = "give forecasts() a frame, and times that have a length, or iterate over the forecasts"
    return InvalidArgument(f"values is not a frame; {remedy}", "values", "no frame", remedy)
