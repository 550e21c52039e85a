"""Inputs that are known ahead of the next tick, u: its calendar, its place in the seasons, and what was sent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model import calendar
from model.spec import ModelSpec

F32 = NDArray[np.float32]


class Ahead:
    """Layout and values of u [B, size].

    The leading `features` columns are features of the network. The last `sent` columns are the known and static inputs
    that were sent with the tick (see `Covariates`). The rest only steers the season's values.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.interval, self.zone, self.holidays = spec.interval, spec.zone, spec.holidays
        self.features = calendar.size(spec.interval, spec.holidays)
        self.season, self.slots = max(spec.periods, default=0.0), spec.slots
        self.sent = spec.sent
        self.size = self.features + bool(self.slots) + self.sent

    def inputs(self, time: NDArray[np.float64], sent: F32 | None = None) -> F32:
        """Return u [B, size] float32, new. time: (B,) event times, seconds since 1970-01-01 UTC.

        sent: [B, sent] known and static values of each tick; not used by a model without.

        Edge, trainer and backtest share this function, so that all use the same numbers.
        """
        u = calendar.inputs(time, self.interval, self.zone, self.holidays)
        u = np.concatenate([u, self.place(time)[:, None]], axis=1) if self.slots else u
        if not self.sent:
            return u
        if sent is None or sent.shape != (len(time), self.sent):
            given = "none" if sent is None else sent.shape
            raise ValueError(
                f"sent is {given}: give ({len(time)}, {self.sent}), the known and static values of each tick"
            )
        return np.concatenate([u, sent], axis=1, dtype=np.float32)

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
