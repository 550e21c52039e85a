"""Inputs that are known ahead of the next tick, u: its calendar, and its place in the seasons."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model import calendar
from model.spec import ModelSpec

F32 = NDArray[np.float32]


class Ahead:
    """Layout and values of u [B, size].

    The leading `features` columns are features of the network. The rest only steers the season's values.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.interval, self.zone, self.holidays = spec.interval, spec.zone, spec.holidays
        self.features = calendar.size(spec.interval, spec.holidays)
        self.size = self.features

    def inputs(self, time: NDArray[np.float64]) -> F32:
        """Return u [B, size] float32, new. time: (B,) event times, seconds since 1970-01-01 UTC.

        Edge, trainer and backtest share this function, so that all use the same numbers.
        """
        return calendar.inputs(time, self.interval, self.zone, self.holidays)
