"""The plain scaler of release 0.1.0, for the models made by it: not robust (see `standard`).

Each channel's running z-score in, its running deviation as the unit of a forecast."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.bounds import MAX_SQUARE, MAX_VALUE, Bound
from model.scalers.contract import MAX_COUNT, TINY, Array, count, rate

Z_CLIP = 6.0


@dataclass(frozen=True)
class StandardScalerV1:
    """Settings and layout; the statistics themselves live in a state row.

    Exponential mean and variance (West 1979, Finch 2009, eq. 143). The mean is kept as what is left of the newest value
    after it, x − m, which needs only differences of x: a mean held by itself in float32 would stop following at an
    offset of 1e5 spreads, where α times a deviation is less than half a rounding step.
    A row of `size` float32 holds: ticks seen [1, or C with `hold`], last value [C], its deviation from the mean [C],
    variance [C].
    """

    channels: int
    horizon: int
    hold: bool = False

    @property
    def parts(self) -> tuple[int, ...]:
        """Sizes of the row's parts, in order: count, last value, deviation, variance."""
        C = self.channels
        return (C if self.hold else 1, C, C, C)

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """Of each part."""
        count, last, deviation, variance = self.parts
        return (
            Bound("the count of ticks", count, 0, MAX_COUNT),
            Bound("the last value", last, -MAX_VALUE, MAX_VALUE),
            Bound("a deviation from the mean", deviation, -2 * MAX_VALUE, 2 * MAX_VALUE),
            Bound("a variance", variance, 0, MAX_SQUARE),
        )

    @property
    def size(self) -> int:
        """Length of the statistics part of a state row."""
        return sum(self.parts)

    @property
    def features(self) -> int:
        """C: a z-score per channel."""
        return self.channels

    @property
    def unseen(self) -> int:
        """0: the cells read all that the head reads."""
        return 0

    @property
    def held(self) -> slice:
        """The last value."""
        return slice(self.parts[0], self.parts[0] + self.channels)

    def update(self, row: Array, x: Array, observed: Array | None = None) -> tuple[Array, Array]:
        """Take one tick in: returns z [B, C], clipped to ±6, and scales [B, H, C], both new arrays.

        row: (B, size), modified in place; x, observed: (B, C), see `fill`. The scale is the deviation of the values so
        far, the same for every step; it is 0 until a channel has moved.
        """
        C, n = self.channels, self.parts[0]
        last, deviation, variance = row[:, n : n + C], row[:, n + C : n + 2 * C], row[:, n + 2 * C :]
        t = count(row[:, :n], observed)
        row[:, :n] = t

        a = rate(t, observed)
        kept = 1 - a  # 0 at the first tick, which is thereby its own mean; 1 at a missing one, whose difference is 0
        e = deviation + (x - last)  # x minus the mean before it
        deviation[...] = kept * e
        variance[...] = kept * (variance + a * (e * e))
        last[...] = x
        sigma = np.sqrt(variance)
        z: Array = np.clip(deviation / (sigma + np.float32(TINY)), -Z_CLIP, Z_CLIP)
        return z, np.repeat(sigma[:, None], self.horizon, axis=1)
