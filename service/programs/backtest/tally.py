"""Sums of errors: overall, over the first rows of a series, and per horizon step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FIRST = (200, 1000)  # leading rows of a series whose errors are also summed by themselves, scored or not

Sums = npt.NDArray[np.float64]


class Tally:
    """Sums of squared errors, of absolute errors, and their number, of one forecaster.

    total: (3,) over the scored rows; first: (3, len(FIRST)) over the first rows; steps: (3, H) over the scored rows.
    """

    def __init__(self, horizon: int) -> None:
        self.total, self.first, self.steps = np.zeros(3), np.zeros((3, len(FIRST))), np.zeros((3, horizon))

    def add(self, error: Sums, known: npt.NDArray[np.bool_], row: int, scored: range) -> None:
        """Add the errors of one origin. error, known: (steps, channels), from step 1 on, in the order of the steps.

        row: the first target row. scored: the steps, counted from 1, whose target rows are scored.
        """
        picked = slice(scored.start - 1, scored.stop - 1)
        counted = error[picked][known[picked]]
        self.total += (float(np.vdot(counted, counted)), float(np.abs(counted).sum()), counted.size)
        if not scored and row >= FIRST[-1]:
            return
        clean = np.where(known, error, 0.0)
        each = np.stack([(clean * clean).sum(axis=1), np.abs(clean).sum(axis=1), known.sum(axis=1)])
        self.steps[:, picked] += each[:, picked]
        for place, rows in enumerate(FIRST):
            if row < rows:
                self.first[:, place] += each[:, : rows - row].sum(axis=1)

    def merge(self, other: Tally) -> None:
        """Add the sums of another forecaster of the same horizon."""
        self.total += other.total
        self.first += other.first
        self.steps += other.steps


@dataclass(frozen=True, slots=True)
class Errors:
    """Mean squared and mean absolute error, in z-units of the train rows."""

    mse: float
    mae: float

    @classmethod
    def of(cls, sums: Sums) -> Errors:
        """Return the means of sums (3,) of a `Tally`; NaN where nothing was counted."""
        squared, absolute, pairs = map(float, sums)
        return cls(squared / pairs, absolute / pairs) if pairs else cls(math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class Scores:
    """The errors of one forecaster: over the scored rows, over the first rows, and per horizon step."""

    overall: Errors
    first: tuple[Errors, ...]  # one for each of FIRST
    steps: tuple[Errors, ...]  # step 1 first

    @classmethod
    def of(cls, tallies: Sequence[Tally]) -> Scores:
        """Return the means over the values of every tally together."""
        whole = Tally(tallies[0].steps.shape[1])
        for tally in tallies:
            whole.merge(tally)
        first, steps = (tuple(map(Errors.of, sums.T)) for sums in (whole.first, whole.steps))
        return cls(Errors.of(whole.total), first, steps)

    def to_mapping(self) -> dict[str, Any]:
        """Return the errors for JSON; per step as two lists, step 1 first."""
        first = {f"first_{rows}": _named(errors) for rows, errors in zip(FIRST, self.first, strict=True)}
        steps = {"mse": [errors.mse for errors in self.steps], "mae": [errors.mae for errors in self.steps]}
        return _named(self.overall) | first | {"steps": steps}


def _named(errors: Errors) -> dict[str, Any]:
    return {"mse": errors.mse, "mae": errors.mae}
