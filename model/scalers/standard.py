"""The standard scaler: inputs are running z-scores, the unit of a forecast is the running standard deviation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.bounds import MAX_SQUARE, MAX_VALUE, Bound, clip
from model.scalers.contract import MAX_COUNT, TINY, Array, Settings, count, split
from model.scalers.robust import BOUNDS, CAP, follow_level, follow_pace, hasty_rate, pull

Z_CLIP = 6.0


@dataclass(frozen=True)
class StandardScaler(Settings):
    """Exponential mean and variance per channel (West 1979; Finch 2009, eq. 143), made robust (`robust`).

    The mean m is stored as the newest value's deviation from it, x − m, which needs only differences of x. A mean
    stored in float32 would stop moving at an offset of 1e5 standard deviations, where ALPHA times a deviation is less
    than half a rounding step.
    A row of `size` float32 holds: ticks seen [1, or C with `hold`], last value [C], its deviation from the mean [C],
    variance [C], mean square of the one-step change [C], and pace, trend, haste and shift [C each, see `robust`].
    """

    HELD = 1

    @property
    def parts(self) -> tuple[int, ...]:
        """Sizes of the row's parts, in the order of the class's docstring."""
        C = self.channels
        return (C if self.hold else 1, *(C,) * 8)

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """Range of each part."""
        count, last, deviation, variance, square, *robust = self.parts
        return (
            Bound("the count of ticks", count, 0, MAX_COUNT),
            Bound("the last value", last, -MAX_VALUE, MAX_VALUE),
            Bound("a deviation from the mean", deviation, -2 * MAX_VALUE, 2 * MAX_VALUE),
            Bound("a variance", variance, 0, MAX_SQUARE),
            Bound("a mean square of changes", square, 0, MAX_SQUARE),
            *(Bound(name, size, low, high) for size, (name, low, high) in zip(robust, BOUNDS, strict=True)),
        )

    def update(self, row: Array, x: Array, observed: Array | None = None) -> tuple[Array, Array]:
        """Update the statistics; return z-scores [B, C], clipped to ±6, and scales [B, H, C], both new arrays.

        row: (B, size), modified in place; x, observed: (B, C), see `fill`. The scale is the running standard deviation
        for every step; it is 0 until a channel has changed.
        """
        t, last, deviation, variance, square, pace, trend, haste, shift = split(row, self.parts)
        t[...] = count(t, observed)
        d = x - last
        change = d * clip(t - 1, 0, 1)

        follow_pace(pace, trend, change)
        capped = np.minimum(change * change, np.float32(CAP) * np.maximum(square, pace * pace))
        square += clip(t - 1, 0, 1) * hasty_rate(t - 1, haste, observed) * (capped - square)
        factor, jolt = pull(pace, haste, np.sqrt(square), observed)
        square *= factor
        variance *= factor

        off = deviation + d  # x minus the mean before it
        a = hasty_rate(t, haste, observed)
        deviation[...] = off - follow_level(shift, variance, off, jolt, np.sqrt(square), t, a, observed)
        last[...] = x
        sigma = np.sqrt(variance)
        z: Array = clip(deviation / (sigma + TINY), -Z_CLIP, Z_CLIP)
        return z, np.repeat(sigma[:, None], self.horizon, axis=1)
