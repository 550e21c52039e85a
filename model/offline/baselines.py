"""Baselines for every claim of forecast quality: their contract, persistence, and values that may be missing.

Every baseline is a prequential forecaster of one stream: `step` learns from the values of one tick and forecasts the
ticks after it. No forecast uses anything after its origin.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Values = npt.NDArray[np.floating[Any]]


class Baseline(Protocol):
    """A forecaster of one stream."""

    def step(self, x: Values, u: Values | None = None, time: float = math.nan) -> Array:
        """Learn from this tick and return the forecasts of the next H ticks.

        x: (C,), finite, in the stream's units; u: (F,), known-ahead inputs of the NEXT tick, such as its calendar;
        time: of this tick, seconds, NaN if it has none. Returns a new array (H, C) in the same units; row h−1 forecasts
        the h-th tick from here.
        """
        ...


class Persistence:
    """Forecasts the present value for every step."""

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon

    def step(self, x: Values, u: Values | None = None, time: float = math.nan) -> Array:
        """See `Baseline.step`; `u` and `time` are not used."""
        return np.repeat(np.asarray(x, np.float64)[None], self.horizon, axis=0)


class Held:
    """Baseline for values that may be missing, NaN: one baseline per channel, fed with its last observed value.

    A channel starts with its first value; before it, nothing is learned and the forecast is 0. make: returns a new
    baseline of one channel and this horizon.
    """

    def __init__(self, make: Callable[[], Baseline], channels: int, horizon: int) -> None:
        self._baselines = [make() for _ in range(channels)]
        self._held = np.full(channels, np.nan)
        self.horizon = horizon

    def step(self, x: Values, u: Values | None = None, time: float = math.nan) -> Array:
        """See `Baseline.step`; x may hold NaN."""
        self._held = np.where(np.isnan(x), self._held, x)
        forecast = np.zeros((self.horizon, len(self._held)))
        for c in np.flatnonzero(~np.isnan(self._held)):
            forecast[:, c] = self._baselines[c].step(self._held[c : c + 1], u, time)[:, 0]
        return forecast
