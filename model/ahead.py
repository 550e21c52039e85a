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
        self.season = max(spec.seasons, default=0.0)
        self.slots = max(1, round(self.season / spec.interval)) if self.season else 0
        self.size = self.features + bool(self.slots)

    def inputs(self, time: NDArray[np.float64]) -> F32:
        """Return u [B, size] float32, new. time: (B,) event times, seconds since 1970-01-01 UTC.

        Edge, trainer and backtest share this function, so that all use the same numbers.
        """
        u = calendar.inputs(time, self.interval, self.zone, self.holidays)
        return np.concatenate([u, self.place(time)[:, None]], axis=1) if self.slots else u

    def place(self, time: NDArray[np.float64]) -> F32:
        """Return the place of event times (B,) in the longest season, [B] float32, in slots; zeros without seasons.

        It follows the local clock: after a change of it, an hour of the day keeps its slot.
        """
        if not self.slots:
            return np.zeros(len(time), np.float32)
        local = calendar.local(time, self.zone)
        return (np.mod(local, self.season) * (self.slots / self.season)).astype(np.float32)

    def slot(self, u: F32) -> F32:
        """Return `place` of the ticks of u [B, size]."""
        return u[:, self.features] if self.slots else np.zeros(len(u), np.float32)
