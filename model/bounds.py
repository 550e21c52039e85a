"""What the numbers of a state can be at all: a state from outside beyond that was made by no stream, and is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_VALUE = 1.01e15  # of a value, and of means of values: what the door lets in, and rounding
MAX_SQUARE = 4.1e30  # of the difference of two
SLACK = 16.0


class Bound(NamedTuple):
    """What one part of a state row may hold: `size` numbers, `low` to `high`, both included."""

    name: str
    size: int
    low: float
    high: float


class Bounds:
    """Of a whole row."""

    def __init__(self, parts: Sequence[Bound]) -> None:
        self._parts = parts
        sizes = [part.size for part in parts]
        self.low: NDArray[np.float32] = np.repeat(np.array([part.low for part in parts], np.float32), sizes)
        self.high: NDArray[np.float32] = np.repeat(np.array([part.high for part in parts], np.float32), sizes)

    def outside(self, row: NDArray[Any], slack: float = 1.0) -> tuple[int, str] | None:
        """The first number of a row that cannot be, NaN too, and what can: its index, and a remedy. None: all can.

        slack: SLACK for a row of our own, as a stream that was put at one end of them may go a little beyond.
        """
        wrong = ~((row >= slack * self.low) & (row <= slack * self.high))
        if not wrong.any():
            return None
        at = int(wrong.argmax())
        part = int(np.searchsorted(np.cumsum([part.size for part in self._parts]), at, side="right"))
        name, _, low, high = self._parts[part]
        finite = "" if np.isfinite(row[at]) else "all are finite, and "
        return at, f"{finite}{name} is {low:g} to {high:g}: put a state that a stream of this model has had"
