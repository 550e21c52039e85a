"""Values with column names, and times of any library, converted to NumPy by their capabilities.

Nothing here imports pandas, polars or pyarrow: a frame is any object that returns its columns by name, and a column is
any object that NumPy can read (`__array__`), with nulls as NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from freshet.errors import InvalidArgument

F64 = npt.NDArray[np.float64]


def named_columns(values: Any) -> dict[str, Any] | None:
    """Return the columns of a DataFrame, table, record batch, structured array or mapping; None without column names.

    Raises InvalidArgument for a duplicate name.
    """
    names, column = _names(values)
    if not names or not all(isinstance(name, str) for name in names):  # pandas numbers columns without names
        return None
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        raise _wrong("values", f"two columns {twice!r}", "give each channel once")
    return {name: column(name) for name in names}


def _names(values: Any) -> tuple[list[Any], Any]:
    if isinstance(values, Mapping):
        return list(values), values.__getitem__
    if getattr(getattr(values, "dtype", None), "names", None):  # NumPy structured arrays
        return list(values.dtype.names), values.__getitem__
    if hasattr(values, "column_names") and hasattr(values, "column"):  # pyarrow
        return list(values.column_names), values.column
    if hasattr(values, "columns") and hasattr(values, "__getitem__"):  # pandas, polars and similar
        return list(values.columns), values.__getitem__
    return [], None


def matrix(columns: Mapping[str, Any], channels: Sequence[str], field: str = "values") -> F64:
    """Return (N, C): the columns in the order of the channels; nulls as NaN.

    Raises InvalidArgument that names a channel without a column, a column without a channel, or one without numbers.
    """
    check_names(list(columns), channels, field)
    found = [_numbers(columns[name], name, field) for name in channels]
    if len({len(column) for column in found}) > 1:
        lengths = ", ".join(f"{name} {len(column)}" for name, column in zip(channels, found, strict=True))
        raise _wrong(
            field, f"columns of different lengths: {lengths}"[:200], "give a value of each channel in each row"
        )
    return np.column_stack(found)


def check_names(names: Sequence[str], channels: Sequence[str], field: str) -> None:
    """Raise InvalidArgument if names and channels differ, in any order."""
    missing = [name for name in channels if name not in names]
    more = [name for name in names if name not in channels]
    if missing or more:
        without = f"no column {', '.join(map(repr, missing))}" if missing else ""
        unknown = f"{', '.join(map(repr, more))}, which is not a channel" if more else ""
        remedy = f"give just the channels {', '.join(channels)}"[:200]
        if field == "values" and not missing and len(more) == 1:
            remedy += f"; if it contains the times, add times={more[0]!r}"
        raise _wrong(field, " and ".join(filter(None, (without, unknown)))[:200], remedy)


def _numbers(column: Any, name: str, field: str) -> F64:
    values = plain(column)
    if values.dtype.kind not in "mM" and values.ndim == 1:
        try:
            return values.astype(np.float64)
        except (TypeError, ValueError):
            pass
    got = f"{values.dtype}" if values.ndim == 1 else f"shape {values.shape}"
    raise _wrong(field, f"column {name!r} of {got}", "give one number per row")


def plain(values: Any) -> npt.NDArray[Any]:
    """Return a NumPy array of anything that NumPy reads, masked values as NaN."""
    if isinstance(values, np.ma.MaskedArray):
        return np.ma.filled(values.astype(np.float64), np.nan)
    return np.asarray(values)


def event_times(times: Any) -> Any:
    """Return an iterable with one time per row, each a number or a value for `ticks.seconds`; NaT as NaN."""
    if not hasattr(times, "__array__"):
        return times
    array = np.asarray(times)
    return in_seconds(array).tolist() if array.dtype.kind == "M" else array


def index_times(values: Any) -> Any:
    """Return the index of a frame or series if it is of times; None otherwise."""
    index = getattr(values, "index", None)
    return index if str(getattr(index, "dtype", "")).startswith("datetime64") else None


def check_lengths(values: Any, times: Any) -> None:
    """Raise InvalidArgument if the numbers of times and rows are both known and differ."""
    if hasattr(values, "__len__") and hasattr(times, "__len__") and len(values) != len(times):
        raise _wrong("times", f"{len(times)} times for {len(values)} rows", "give one for each row")


def in_seconds(times: npt.NDArray[np.datetime64]) -> F64:
    """Return seconds since 1970-01-01 UTC. NumPy's times have no zone: zoned times were converted to UTC before."""
    return np.asarray((times - np.datetime64(0, "s")) / np.timedelta64(1, "s"))


def _wrong(field: str, value: str, remedy: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {value}; {remedy}", field, value, remedy)
