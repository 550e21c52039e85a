"""Prediction intervals of answers: lower and upper bounds by level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from freshet.errors import InvalidArgument

Array = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """Bounds of one or more answers.

    levels: the shares of the labels between the bounds, ascending. lower, upper: float32, or float64 if an offset was
    added; the first axis is the level, the others are those of the forecasts.
    """

    levels: tuple[float, ...]
    lower: Array
    upper: Array

    def at(self, level: float) -> tuple[Array, Array]:
        """Return lower and upper bounds of a level, shaped as the forecasts. Raises InvalidArgument for another."""
        if level not in self.levels:
            remedy = f"give one of the model's intervals: {', '.join(f'{known:g}' for known in self.levels)}"
            raise InvalidArgument(f"level = {level!r}; {remedy}", "level", repr(level), remedy)
        n = self.levels.index(level)
        return self.lower[n], self.upper[n]


def bounds_at(bounds: Bounds | None, level: float) -> tuple[Array, Array]:
    """Return lower and upper bounds of a level. Raises InvalidArgument without intervals, or for another level."""
    if bounds is None:
        remedy = "the model has no intervals: create it with intervals=[0.5, 0.9], for example"
        raise InvalidArgument(f"level = {level!r}; {remedy}", "level", repr(level), remedy)
    return bounds.at(level)


def percent(level: float) -> str:
    """Return a level as the digits of a column's name: 90 for 0.9, 97.5 for 0.975."""
    return f"{100 * level:.6g}"
