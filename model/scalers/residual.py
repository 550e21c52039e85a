"""The residual scaler: inputs are scaled differences and the level, the unit of a forecast is the h-step change.

Per channel it tracks the level (exponential mean and variance, in West's incremental form of 1979) and, for each step
h = 1..H, the mean square of h-step differences, all made robust (`robust`). The statistics are incremental, so that in
float32 an offset of 1e5 costs no digits of the spread. Every floor is relative to the running deviation, so that
forecasts are equivariant under x → a·x + b.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.bounds import MAX_SQUARE, MAX_VALUE, Bound, clip, constant
from model.scalers.contract import MAX_COUNT, TINY, Array, Settings, count, split
from model.scalers.robust import BOUNDS, CAP, follow_level, follow_pace, hasty_rate, pull

RELATIVE_FLOOR = 1e-3  # of the running deviation
LEVEL_CLIP = 4.0
DIFFERENCE_CLIP = 6.0


@dataclass(frozen=True)
class ResidualScaler(Settings):
    """A row of `size` float32 holds: ticks seen [1, or C with `hold`], mean [C], variance [C], mean square of the
    h-step difference [H·C, h-major], the last H values [H·C, newest first], the last difference input [C], and pace,
    trend, haste and shift [C each, see `robust`].
    """

    HELD = 4

    @property
    def parts(self) -> tuple[int, ...]:
        """Sizes of the row's parts, in the order of the class's docstring."""
        C, H = self.channels, self.horizon
        return (C if self.hold else 1, C, C, H * C, H * C, C, C, C, C, C)

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """Range of each part."""
        count, mean, variance, square, last, last_u, *robust = self.parts
        return (
            Bound("the count of ticks", count, 0, MAX_COUNT),
            Bound("a mean", mean, -MAX_VALUE, MAX_VALUE),
            Bound("a variance", variance, 0, MAX_SQUARE),
            Bound("a mean square of differences", square, 0, MAX_SQUARE),
            Bound("a last value", last, -MAX_VALUE, MAX_VALUE),
            Bound("the last input", last_u, -DIFFERENCE_CLIP, DIFFERENCE_CLIP),
            *(Bound(name, size, low, high) for size, (name, low, high) in zip(robust, BOUNDS, strict=True)),
        )

    @property
    def features(self) -> int:
        """3C: the difference inputs of the previous tick and of this one, and the level."""
        return 3 * self.channels

    @property
    def unseen(self) -> int:
        """C: the difference input of the previous tick, which the cells have already read."""
        return self.channels

    def update(self, row: Array, x: Array, observed: Array | None = None) -> tuple[Array, Array]:
        """Update the statistics; return features [B, 3C] = (u_{t-1}, u_t, l_t) and scales [B, H, C], both new arrays.

        row: (B, size), modified in place; x, observed: (B, C), see `fill`. The scale of a step is 0 until a difference
        over that step was seen: the forecast is then the last value, and a label for that origin does not count.
        A difference counts if its newer value was observed; its older value may be a replacement.
        """
        C, H, B = self.channels, self.horizon, len(x)
        t, mean, var, square, last, last_u, pace, trend, haste, shift = split(row, self.parts)
        t[...] = count(t, observed)
        begun = clip(t - constant(1), 0, 1)
        d = x[:, None, :] - last.reshape(B, H, C)
        change = d[:, 0] * begun

        sigma = np.sqrt(var)
        square = square.reshape(B, H, C)  # a view
        seen = t[:, None, :] - np.arange(1, H + 1, dtype=np.float32)[None, :, None]  # differences, this one included
        valid = clip(seen, 0, 1)
        follow_pace(pace, trend, change)
        self._update_squares(square, d, seen, valid, pace, haste, constant(RELATIVE_FLOOR) * sigma, observed)
        factor, jolt = pull(pace, haste, np.sqrt(square[:, 0]), observed)
        square *= factor[:, None]
        var *= factor
        root = np.sqrt(square)

        off = x - mean
        mean += follow_level(shift, var, off, jolt, root[:, 0], t, hasty_rate(t, haste, observed), observed)
        sigma = np.sqrt(var)
        level = begun * clip(off / (sigma + constant(TINY)), -LEVEL_CLIP, LEVEL_CLIP)

        usable = root + (constant(RELATIVE_FLOOR) * sigma)[:, None] + constant(TINY)
        u = clip(change / usable[:, 0], -DIFFERENCE_CLIP, DIFFERENCE_CLIP)
        features = np.concatenate([last_u, u, level], axis=1)
        last_u[...] = u
        last[:, C:] = last[:, :-C].copy()
        last[:, :C] = x
        return features, usable * valid

    def _update_squares(
        self,
        square: Array,
        d: Array,
        seen: Array,
        valid: Array,
        pace: Array,
        haste: Array,
        floor: Array,
        observed: Array | None,
    ) -> None:
        """Update the mean squares [B, H, C], in place, with differences d [B, H, C], each square capped.

        The first difference over h steps has no mean square of its own yet: its cap is h times that of one step, as in
        a random walk.
        """
        steps = np.arange(1, self.horizon + 1, dtype=np.float32)[None, :, None]
        first = clip(constant(2) - seen, 0, 1)
        known = square + first * steps * square[:, :1]
        bound = np.maximum(np.sqrt(known), pace[:, None]) + floor[:, None]
        capped = np.minimum(d * d, constant(CAP) * bound * bound)
        ended = None if observed is None else observed[:, None]
        square += valid * hasty_rate(seen, haste[:, None], ended) * (capped - square)
