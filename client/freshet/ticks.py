"""From observations as users have them (arrays, lists, generators, pairs) to checked ticks."""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from freshet.arguments import invalid
from freshet.errors import InvalidArgument, Reason, TickRefused
from freshet.frames import check_lengths, check_names, event_times, index_times, matrix, named_columns, plain
from freshet.known import of_ticks, rows_ahead

LARGEST = 1e15  # limit of |x|: types.proto, TOO_LARGE


class Tick(NamedTuple):
    """One observation, as a user gives it.

    x: one number per channel (array-like; a bare number for one channel; a dict or a row of a frame, by name). NaN or
        None is a missing value, for models with missing = "hold".
    time: event time: seconds since 1970-01-01 UTC, datetime (naive means UTC), datetime64, or None.
    known: the known inputs for the steps that are forecast: a mapping from each name to horizon numbers (a number for
        horizon 1), or an array [horizon, known]; None if the model has none.
    """

    x: Any
    time: Any = None
    known: Any = None


class Checked(NamedTuple):
    """A tick ready for the wire, which rounds x to float32; time in seconds. given: x before the offset; u: known
    inputs, step 1 first."""

    x: list[float]
    time: float | None
    given: list[float]
    u: list[float] = []  # noqa: RUF012  # never modified


class Layout(NamedTuple):
    """The required form of a tick. interval: seconds, 0 if event time is optional. holds: NaN means missing.

    offset: subtracted from each channel before x becomes float32; None for no offset. known: names of the known
    inputs, sent for `horizon` steps.
    """

    channels: tuple[str, ...]
    interval: float
    holds: bool = False
    offset: tuple[float, ...] | None = None
    known: tuple[str, ...] = ()
    horizon: int = 1


NO_KNOWN: tuple[tuple[str, ...], int] = ((), 1)


def ticks(
    values: Any,
    times: Any = None,
    channels: Callable[[], Sequence[str]] = tuple,
    ahead: Callable[[npt.NDArray[Any]], None] = lambda rows: None,
    inputs: Callable[[], tuple[Sequence[str], int]] = lambda: NO_KNOWN,
    known: Any = None,
) -> Iterator[Tick] | AsyncIterator[Tick]:
    """Return an iterator over observations as ticks.

    values: array (N, C) or (N,); frame, whose columns are matched to the channels by name; or any iterable or async
        iterable of rows, (time, row) pairs or Ticks.
    times: one per row, an iterable; values are then rows only. A different length raises ValueError when it is reached.
        For a frame also the name of its column of times.
    channels: called if columns have names; returns the model's channels.
    ahead: called with all rows, if they are an array or a frame, before any tick.
    inputs: returns the names of the model's known inputs, and its horizon. known: their values at each row, for values
        with a length; those of a frame may be its own columns. Row t sends the values of the next rows (`known.ahead`).

    Raises TypeError for values that cannot be iterated over, InvalidArgument for columns other than the channels.
    """
    if isinstance(values, AsyncIterable):
        if times is not None:
            raise TypeError("times = given with an async iterable; yield (time, row) pairs instead")
        return _async_ticks(values)
    for field, given in (("values", values), ("times", times)):
        if isinstance(given, Set):
            raise invalid(field, given, "give a list or an array: a set has no order")
    columns = named_columns(values)
    if isinstance(times, str):
        if columns is None or times not in columns:
            remedy = "give times, or the name of a column of the frame"
            raise InvalidArgument(f"times = {times!r}; {remedy}", "times", times, remedy)
        times = columns.pop(times)
    if times is None:
        times = index_times(values)
    if columns is not None:
        names, _ = inputs()
        if known is None and names and all(name in columns for name in names):
            known = {name: columns.pop(name) for name in names}
        values = matrix(columns, channels())
    elif hasattr(values, "__array__"):
        values = plain(values)
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes)):
        raise TypeError(f"values = {type(values).__name__}; give an array, a frame, or an iterable of rows")
    if times is not None:
        check_lengths(values, times)
    if isinstance(values, np.ndarray):
        ahead(values)
    if known is not None:
        return _with_known(values, times, known, *inputs())
    if times is not None:
        return itertools.starmap(Tick, zip(values, event_times(times), strict=True))
    return map(as_tick, values)


def _with_known(values: Any, times: Any, known: Any, names: Sequence[str], horizon: int) -> Iterator[Tick]:
    """Return ticks whose known inputs have a value at each row."""
    if not hasattr(values, "__len__"):
        raise invalid("known", known, "yield Ticks that have known set, or give values with a length")
    if not names:
        raise invalid("known", known, "omit it: the model has no known inputs")
    sent = rows_ahead(known, names, horizon, len(values))
    moments = itertools.repeat(None, len(values)) if times is None else event_times(times)
    return itertools.starmap(Tick, zip(values, moments, sent, strict=True))


async def _async_ticks(values: AsyncIterable[Any]) -> AsyncIterator[Tick]:
    async for item in values:
        yield as_tick(item)


def as_tick(item: Any) -> Tick:
    """Return a Tick unchanged; a tuple (datetime, …) or (number, row) as time and row; anything else as a row."""
    if isinstance(item, Tick):
        return item
    if isinstance(item, tuple) and len(item) == 2:
        time, row = item
        if isinstance(time, (dt.datetime, np.datetime64)) or (np.ndim(row) == 1 and np.ndim(time) == 0):
            return Tick(row, time)
    return Tick(item)


def check(tick: Tick, seq: int, layout: Layout, after: float | None) -> Checked:
    """Refuse a tick that the server would refuse, before anything is sent. Raises TickRefused.

    after: event time of the tick before, seconds, if known.
    """
    x = given = _check_x(tick.x, seq, layout)
    if layout.offset is not None:
        x = [value - by for value, by in zip(given, layout.offset, strict=True)]
    return Checked(x, _check_time(tick.time, seq, layout, after), given, _check_known(tick.known, seq, layout))


def _check_known(known: Any, seq: int, layout: Layout) -> list[float]:
    names = layout.known
    if known is None and (not names or layout.holds):
        return []
    if known is None or not names:
        remedy = f"send {', '.join(names)} with every tick: known={{...}}"[:200] if names else "the model has none"
        raise TickRefused(seq, "known", "none" if known is None else repr(known)[:80], remedy, Reason.SHAPE)
    try:
        (row,) = of_ticks(known, names, layout.horizon, 1)
    except InvalidArgument as error:
        raise TickRefused(seq, "known", error.value, error.remedy, Reason.SHAPE) from None
    good = (np.abs(row) <= LARGEST) | (layout.holds & np.isnan(row))
    if not good.all():
        at = int(np.argmin(good))
        name, step = names[at % len(names)], at // len(names) + 1
        reason = Reason.TOO_LARGE if math.isfinite(row[at]) else Reason.NON_FINITE
        remedy = f"send a finite number up to 1e15 for {name} at step {step}"
        raise TickRefused(seq, f"u[{at}]", f"{row[at]:g}", remedy, reason)
    values: list[float] = row.tolist()
    return values


def _check_x(x: Any, seq: int, layout: Layout) -> list[float]:
    names = layout.channels
    if hasattr(x, "keys"):
        x = _by_name(x, seq, names)
    if isinstance(x, float) and len(names) == 1 and -LARGEST <= x <= LARGEST:
        return [x]  # the common case, without NumPy's overhead
    try:
        row = np.atleast_1d(np.asarray(x, np.float64))
    except (TypeError, ValueError):
        raise TickRefused(seq, "x", repr(x)[:80], "every channel must be a number", Reason.NON_FINITE) from None
    if row.shape != (len(names),):
        got = f"{row.shape[0]} values" if row.ndim == 1 else f"array of shape {row.shape}"
        remedy = f"send {len(names)} values: {', '.join(names)}"[:200]
        raise TickRefused(seq, "x", got, remedy, Reason.SHAPE)
    if not np.abs(row).max() <= LARGEST:  # also false for NaN
        bad = ~(np.abs(row) <= LARGEST) & ~(layout.holds & np.isnan(row))
        if bad.any():
            raise _bad_value(seq, int(np.argmax(bad)), row, names)
    values: list[float] = row.tolist()
    return values


def _by_name(x: Any, seq: int, names: tuple[str, ...]) -> Any:
    """Return a dict, or another object with `keys`, in the order of the channels; unchanged if keys are not text."""
    keys = list(x.keys())
    if not all(isinstance(key, str) for key in keys):
        return x
    try:
        check_names(keys, names, "x")
    except InvalidArgument as error:
        raise TickRefused(seq, "x", error.value, error.remedy, Reason.SHAPE) from None
    return [x[name] for name in names]


def _bad_value(seq: int, at: int, row: Any, names: tuple[str, ...]) -> TickRefused:
    field, value = f"x[{at}]", f"{row[at]:g}"
    if math.isfinite(row[at]):
        return TickRefused(seq, field, value, f"|{names[at]}| must be at most 1e15", Reason.TOO_LARGE)
    instead = ', or create the model with missing = "hold"' if math.isnan(row[at]) else ""
    return TickRefused(seq, field, value, f"send a finite number for {names[at]}{instead}", Reason.NON_FINITE)


def _check_time(time: Any, seq: int, layout: Layout, after: float | None) -> float | None:
    if time is None:
        if layout.interval > 0:
            remedy = f"this model needs the event time of every tick (its interval is {layout.interval:g} s)"
            raise TickRefused(seq, "time", "missing", remedy, Reason.TIME)
        return None
    try:
        value = seconds(time)
    except (TypeError, ValueError):
        raise TickRefused(seq, "time", repr(time)[:80], "give seconds, datetime or datetime64", Reason.TIME) from None
    if not math.isfinite(value):
        raise TickRefused(seq, "time", str(value), "send a finite time", Reason.TIME)
    if after is not None and value <= after:
        remedy = (
            f"send a time after {after!r} ({as_date(after)}); if that was wrong, reset the stream: its state is lost"
        )
        raise TickRefused(seq, "time", f"{value!r} ({as_date(value)})", remedy, Reason.TIME)
    return value


def as_date(value: float) -> str:
    """Return seconds since 1970 as a date in UTC; as a number if it is outside the calendar."""
    try:
        moment = dt.datetime.fromtimestamp(value, dt.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{value:g}"
    return moment.isoformat(timespec="seconds" if moment.microsecond == 0 else "milliseconds").replace("+00:00", "Z")


def event_seconds(time: Any) -> float:
    """Return `seconds`, but raise InvalidArgument for a value that is not a time."""
    try:
        value = seconds(time)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise invalid("time", time, "give seconds, datetime or datetime64")
    return value


def seconds(time: Any) -> float:
    """Return seconds since 1970-01-01 UTC. Raises TypeError or ValueError for a value that is not a time."""
    if isinstance(time, dt.datetime):
        return (time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp()
    if isinstance(time, np.datetime64):
        if np.isnat(time):
            return math.nan
        return float((time - np.datetime64(0, "s")) / np.timedelta64(1, "s"))
    return float(time)
