"""No scaler: values as they come. For data that is scaled already: forecasts are not equivariant under x → a·x + b."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.bounds import MAX_VALUE, Bound
from model.scalers.contract import Array


@dataclass(frozen=True)
class NoScaler:
    """Settings. Inputs are the values, and every forecast's unit is 1.

    There are no statistics, but with `hold` a row has the last value [C] and whether there was one [C]: before it, the
    unit is 0.
    Targets are clipped to ±8 as with every scaler, so changes beyond 8 are not learned in full.
    """

    channels: int
    horizon: int
    hold: bool = False

    @property
    def parts(self) -> tuple[int, ...]:
        """Sizes of the row's parts: last value and whether there was one, or nothing without `hold`."""
        return (self.channels, self.channels) if self.hold else ()

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """Of each part."""
        C = self.channels
        held = (Bound("the last value", C, -MAX_VALUE, MAX_VALUE), Bound("whether there was one", C, 0, 1))
        return held if self.hold else ()

    @property
    def size(self) -> int:
        """Length of the statistics part of a state row."""
        return sum(self.parts)

    @property
    def features(self) -> int:
        """C: the values."""
        return self.channels

    @property
    def unseen(self) -> int:
        """0: the cells read all that the head reads."""
        return 0

    @property
    def held(self) -> slice:
        """The last value."""
        return slice(0, self.channels)

    def update(self, row: Array, x: Array, observed: Array | None = None) -> tuple[Array, Array]:
        """Returns x [B, C] and ones [B, H, C], both new arrays; zeros for a channel of which no value was seen yet.

        row: (B, size), modified in place; x, observed: (B, C), see `fill`.
        """
        unit = np.ones_like(x)
        if observed is not None:
            last, begun = row[:, : self.channels], row[:, self.channels :]
            last[...] = x
            unit = np.maximum(begun, observed)
            begun[...] = unit
        return x.copy(), np.repeat(unit[:, None], self.horizon, axis=1)
