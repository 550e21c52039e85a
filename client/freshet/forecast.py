"""The answer to a tick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from freshet import shown
from freshet.bounds import Bounds, bounds_at, percent
from freshet.ticks import as_date


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Forecast:
    """The answer to one tick.

    y: float32, owned by the caller; float64 if an offset was added. Task forecast: (horizon, targets) in the units of
        the channels; y[0] is the next tick. Task regress: (1, targets). Task classify: (1, classes), their
        probabilities.
    version: the version of the model that answered.
    judged_through: labels of ticks up to this seq were learned and judged in the weights that answered.
    latency_s: seconds from first sending the tick to receiving the answer, by the client's monotonic clock.
    lost: the server accepted the tick but no longer has its answer (after a long reconnect). y is NaN, version is 0,
        and the stream continues.
    time: event time of the tick, seconds since 1970-01-01 UTC; None without one.
    interval: seconds from one step to the next; 0 if the model has none, or is not of task forecast.
    bounds: prediction intervals by level; None if the model has none. `lower`, `upper` and `between` return those of
        one level. They are NaN until the stream has changed over that many steps, and where `lost`.
    """

    seq: int
    y: npt.NDArray[np.floating[Any]]
    version: int
    judged_through: int
    latency_s: float
    lost: bool = False
    time: float | None = None
    interval: float = 0.0
    bounds: Bounds | None = None

    def between(self, level: float) -> tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.floating[Any]]]:
        """Return lower and upper bounds, of y's shape, between which a share of `level` of the labels lies.

        Raises InvalidArgument for a level that is not among the model's intervals.
        """
        return bounds_at(self.bounds, level)

    def lower(self, level: float) -> npt.NDArray[np.floating[Any]]:
        """Return the lower bounds of `between`."""
        return self.between(level)[0]

    def upper(self, level: float) -> npt.NDArray[np.floating[Any]]:
        """Return the upper bounds of `between`."""
        return self.between(level)[1]

    @property
    def times(self) -> npt.NDArray[np.float64] | None:
        """(horizon,) event times of the rows of y, seconds since 1970-01-01 UTC; convert with
        `times.astype("datetime64[s]")`.

        None unless the task is forecast, the tick has a time and the model has an interval.
        """
        if self.time is None or self.interval <= 0:
            return None
        return self.time + self.interval * np.arange(1, len(self.y) + 1, dtype=np.float64)

    @property
    def staleness(self) -> int:
        """Labels that had arrived and were not yet judged in the weights that answered."""
        return self.seq - self.judged_through

    def __repr__(self) -> str:
        facts = [f"seq={self.seq}", f"y={shown.numbers(self.y)}", f"version={self.version}"]
        facts += [f"judged_through={self.judged_through}", f"latency_s={self.latency_s:.3g}"]
        if self.bounds is not None:
            for level in self.bounds.levels:
                low, high = (shown.numbers(bound) for bound in self.bounds.at(level))
                facts.append(f"{percent(level)} %={low} to {high}")
        facts += ["lost=True"] if self.lost else []
        facts += [] if self.time is None else [f"time={as_date(self.time)}"]
        return f"Forecast({', '.join(facts)})"

    def _repr_html_(self) -> str:
        """A table for notebooks: a row per step ahead, a column per target or class."""
        when, facts = self.times, [f"Forecast of tick {self.seq}", f"version {self.version}"]
        facts += ["lost"] if self.lost else [f"judged through {self.judged_through}"]
        header, columns = [*map(str, range(self.y.shape[1]))], [self.y]
        for level in () if self.bounds is None else self.bounds.levels:
            columns += self.between(level)
            header += [f"{end} {percent(level)} %: {n}" for end in ("lower", "upper") for n in range(self.y.shape[1])]
        header = ["step", *([] if when is None else ["time (UTC)"]), *header]
        rows = []
        for step, row in enumerate(np.concatenate(columns, axis=1).tolist()):
            moment = [] if when is None else [as_date(float(when[step]))]
            rows.append([f"+{step + 1}", *moment, *(f"{value:.6g}" for value in row)])
        return shown.table(", ".join(facts), header, rows)
