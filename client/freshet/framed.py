"""Forecasts as a frame of the library that the rows came in: their index or times, a column per target and step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from freshet.errors import InvalidArgument
from freshet.forecast import Forecast
from freshet.frames import named_columns, plain
from freshet.results import ModelSpec

TIME = "time"  # the column of times that have no name


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows as ticks, or what yields them, and the frame that their forecasts go into; None where they came in none."""

    ticks: Any
    frame: Callable[[Mapping[str, Any]], Any] | None


def framer(values: Any, times: Any) -> Callable[[Mapping[str, Any]], Any] | None:
    """What makes a frame of columns, of the library and with the index or the times of `values`.

    values, times: as of `Stream.forecasts`. None where values is no frame, or times can be walked over only once.
    """
    if times is not None and not hasattr(times, "__len__"):
        return None
    if hasattr(values, "iloc") and hasattr(values, "index"):  # pandas, and what is like it
        return _pandas(values, times)
    if isinstance(values, Mapping):
        return _with_times(values, times, lambda columns: columns)
    kind = type(values)
    if hasattr(kind, "from_pydict"):  # pyarrow
        return _with_times(values, times, kind.from_pydict)
    if hasattr(values, "to_frame") and hasattr(values, "to_numpy"):  # a series of polars
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
    """For libraries without an index: the times, where there are any, are the first column."""
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
    """Times given apart, which have a length."""
    if hasattr(times, "__array__"):
        return plain(times)
    return list(times)


def columns_of(spec: ModelSpec, outcomes: Sequence[Forecast | None]) -> dict[str, npt.NDArray[Any]]:
    """A column per target, or class, and step ahead; NaN where a row was refused.

    A column has the name of its target where the model forecasts one step, and NAME+H for H steps ahead otherwise.
    """
    names = tuple(spec.classes or spec.targets or spec.channels)
    horizon = spec.horizon or 1
    nothing = np.full((horizon, len(names)), np.nan, np.float32)
    given = [nothing if outcome is None else outcome.y for outcome in outcomes]
    y = np.stack(given) if given else np.zeros((0, horizon, len(names)), np.float32)
    return {
        name if horizon == 1 else f"{name}+{h + 1}": np.ascontiguousarray(y[:, h, i])
        for i, name in enumerate(names)
        for h in range(horizon)
    }


def no_frame() -> InvalidArgument:
    """The refusal to make a frame of what came in none."""
    remedy = "give forecasts() a frame, and times that have a length, or iterate over the forecasts"
    return InvalidArgument(f"values is no frame; {remedy}", "values", "no frame", remedy)
