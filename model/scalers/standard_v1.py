"""The standard scaler of release 0.1.0, kept for models made by that release. Not robust; see `standard`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.bounds import MAX_SQUARE, MAX_VALUE, Bound
from model.scalers.contract import MAX_COUNT, TINY, Array, Settings, count, rate

Z_CLIP = 6.0


@dataclass(frozen=True)
class StandardScalerV1(Settings):
    """Exponential mean and variance per channel (West 1979; Finch 2009, eq. 143).

    The mean m is stored as the newest value's deviation from it, x − m, for the reason given in `StandardScaler`.
    A row of `size` float32 holds: ticks seen [1, or C with `hold`], last value [C], its deviation from the mean [C],
    variance [C].
    """

    HELD = 1

    @property
    def parts(self) -> tuple[int, ...]:
        """Sizes of the row's parts, in order: count, last value, deviation, variance."""
        C = self.channels
        return (C if self.hold else 1, C, C, C)

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """Range of each part."""
        count, last, deviation, variance = self.parts
        return (
            Bound("the count of ticks", count, 0, MAX_COUNT),
            Bound("the last value", last, -MAX_VALUE, MAX_VALUE),
            Bound("a deviation from the mean", deviation, -2 * MAX_VALUE, 2 * MAX_VALUE),
            Bound("a variance", variance, 0, MAX_SQUARE),
        )

    def update(self, row: Array, x: Array, observed: Array | None = None) -> tuple[Array, Array]:
        """Update the statistics; return z-scores [B, C], clipped to ±6, and scales [B, H, C], both new arrays.

        row: (B, size), modified in place; x, observed: (B, C), see `fill`. The scale is the running standard deviation
        for every step; it is 0 until a channel has changed.
        """
        C, n = self.channels, self.parts[0]
        last, deviation, variance = row[:, n : n + C], row[:, n + C : n + 2 * C], row[:, n + 2 * C :]
        t = count(row[:, :n], observed)
        row[:, :n] = t

        a = rate(t, observed)
        kept = 1 - a  # 0 at the first tick, which becomes the mean; 1 at a missing value, whose difference is 0
        e = deviation + (x - last)  # x minus the mean before it
        deviation[...] = kept * e
        variance[...] = kept * (variance + a * (e * e))
        last[...] = x
        sigma = np.sqrt(variance)
        z: Array = np.clip(deviation / (sigma + np.float32(TINY)), -Z_CLIP, Z_CLIP)
        return z, np.repeat(sigma[:, None], self.horizon, axis=1)
