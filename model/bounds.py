"""Bounds of values, and of a state row: no stream leaves them, so a state from outside that does is refused."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_VALUE = 1.01e15  # of a value and of means of values: the largest accepted magnitude, 1e15, plus rounding
MAX_SQUARE = 4.1e30  # of the square of a difference of two values
SLACK = 16.0  # factor on the bounds for rows of our own, see `Bounds.outside`
PUT_OTHER = "put a state that a stream of this model has had"  # the remedy


@lru_cache(maxsize=256)
def constant(value: float, dtype: Any = np.float32) -> NDArray[Any]:
    """Return `value` as a read-only 0-d array: on the few values of a tick it takes half the time of a Python float."""
    made = np.array(value, dtype)
    made.flags.writeable = False
    return made


def clip(values: NDArray[Any], low: Any, high: Any) -> NDArray[Any]:
    """Return `np.clip(values, low, high)`, a new array. On the few values of a tick it takes a tenth of the time."""
    if type(low) is not np.ndarray and values.dtype.kind == "f":
        low, high = constant(low, values.dtype), constant(high, values.dtype)
    clipped: NDArray[Any] = np.minimum(np.maximum(values, low), high)
    return clipped


class Bound(NamedTuple):
    """The range of one part of a state row: `size` numbers, `low` to `high`, both included."""

    name: str
    size: int
    low: float
    high: float


class Bounds:
    """The bounds of every number of a state row."""

    def __init__(self, parts: Sequence[Bound]) -> None:
        self._parts = parts
        sizes = [part.size for part in parts]
        self.low: NDArray[np.float32] = np.repeat(np.array([part.low for part in parts], np.float32), sizes)
        self.high: NDArray[np.float32] = np.repeat(np.array([part.high for part in parts], np.float32), sizes)

    def outside(self, row: NDArray[Any], slack: float = 1.0) -> tuple[int, str] | None:
        """Return index and remedy of the first number of `row` [S] that is outside its bounds or NaN; None if none is.

        slack: factor on the bounds. SLACK for a row of our own: a stream that was put at a bound may pass it slightly.
        """
        wrong = ~((row >= slack * self.low) & (row <= slack * self.high))
        if not wrong.any():
            return None
        at = int(wrong.argmax())
        part = int(np.searchsorted(np.cumsum([part.size for part in self._parts]), at, side="right"))
        name, _, low, high = self._parts[part]
        finite = "" if np.isfinite(row[at]) else "all are finite, and "
        return at, f"{finite}{name} is {low:g} to {high:g}: {PUT_OTHER}"
