"""The residual scaler of release 0.1.0, kept for models made by that release. Not robust; see `residual`.

Per channel it tracks the level (exponential mean and variance) and, for each step h = 1..H, the mean square of h-step
differences, incrementally in float32 (West 1979; exponential form: Finch 2009, eq. 143). Every floor is relative to the
running deviation, so that forecasts are equivariant under x → a·x + b.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.bounds import MAX_SQUARE, MAX_VALUE, Bound
from model.scalers.contract import MAX_COUNT, TINY, Array, Settings, count, rate

WARM_DIFFERENCES = 50  # after this many, squared differences are capped at CAP times their running scale squared
CAP = 25.0
RELATIVE_FLOOR = 1e-3  # of the running deviation
LEVEL_CLIP = 4.0
DIFFERENCE_CLIP = 6.0


@dataclass(frozen=True)
class ResidualScalerV1(Settings):
    """A row of `size` float32 holds: ticks seen [1, or C with `hold`], mean [C], variance [C], mean square of the
    h-step difference [H·C, h-major], the last H values [H·C, newest first], the last difference input [C].
    """

    HELD = 4

    @property
    def parts(self) -> tuple[int, ...]:
        """Sizes of the row's parts, in order: count, mean, variance, difference squares, last values, last input."""
        C, H = self.channels, self.horizon
        return (C if self.hold else 1, C, C, H * C, H * C, C)

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """Range of each part."""
        count, mean, variance, square, last, last_u = self.parts
        return (
            Bound("the count of ticks", count, 0, MAX_COUNT),
            Bound("a mean", mean, -MAX_VALUE, MAX_VALUE),
            Bound("a variance", variance, 0, MAX_SQUARE),
            Bound("a mean square of differences", square, 0, MAX_SQUARE),
            Bound("a last value", last, -MAX_VALUE, MAX_VALUE),
            Bound("the last input", last_u, -DIFFERENCE_CLIP, DIFFERENCE_CLIP),
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
        C, H, n = self.channels, self.horizon, self.parts[0]
        B = len(x)
        mean, var = row[:, n : n + C], row[:, n + C : n + 2 * C]
        square, last, last_u = (
            row[:, n + 2 * C : n + (2 + H) * C],
            row[:, n + (2 + H) * C : n + (2 + 2 * H) * C],
            row[:, n + (2 + 2 * H) * C :],
        )
        t = count(row[:, :n], observed)
        row[:, :n] = t

        a = rate(t, observed)
        e = np.where(t > 1, x - mean, np.float32(0))
        mean += a * e
        np.copyto(mean, x, where=t == 1)
        var[...] = (1 - a) * (var + a * (e * e))
        sigma = np.sqrt(var)
        level = np.clip(e / (sigma + np.float32(TINY)), -LEVEL_CLIP, LEVEL_CLIP)

        d = (x[:, None, :] - last.reshape(B, H, C)).reshape(B, H * C)
        ended = None if observed is None else np.tile(observed, (1, H))
        # (B, H·C) differences seen over each step, this one included
        seen = (t if observed is None else np.tile(t, (1, H))) - self._steps()
        floor = np.float32(RELATIVE_FLOOR) * np.broadcast_to(sigma[:, None, :], (B, H, C)).reshape(B, H * C)
        bound = np.sqrt(square) + floor
        q = np.where(seen > WARM_DIFFERENCES, np.minimum(d * d, np.float32(CAP) * bound * bound), d * d)
        square += np.where(seen >= 1, rate(seen, ended) * (q - square), np.float32(0))
        scale = np.where(seen >= 1, np.sqrt(square) + floor + np.float32(TINY), np.float32(0))

        first = scale[:, :C]
        u = np.where(t > 1, d[:, :C] / np.where(first > 0, first, np.float32(1)), np.float32(0))
        u = np.clip(u, -DIFFERENCE_CLIP, DIFFERENCE_CLIP)
        features = np.concatenate([last_u, u, level], axis=1)
        last_u[...] = u
        last[:, C:] = last[:, :-C].copy()
        last[:, :C] = x
        return features, scale.reshape(B, H, C)

    def _steps(self) -> Array:
        return np.repeat(np.arange(1, self.horizon + 1, dtype=np.float32), self.channels)[None]
