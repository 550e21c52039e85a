"""No scaler: inputs are the raw values. For data that is already scaled; not equivariant under x → a·x + b."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.bounds import MAX_VALUE, Bound
from model.scalers.contract import Array, Settings


@dataclass(frozen=True)
class NoScaler(Settings):
    """Inputs are the values, and the unit of every forecast is 1.

    There are no statistics. With `hold`, a row has the last value [C] and whether there was one [C]; the unit is 0
    until there is. Targets are clipped to ±8 as with every scaler, so changes beyond 8 are not learned in full.
    """

    HELD = 0

    @property
    def parts(self) -> tuple[int, ...]:
        """Sizes of the row's parts: last value and whether there was one; empty without `hold`."""
        return (self.channels, self.channels) if self.hold else ()

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """Range of each part."""
        C = self.channels
        held = (Bound("the last value", C, -MAX_VALUE, MAX_VALUE), Bound("whether there was one", C, 0, 1))
        return held if self.hold else ()

    def update(self, row: Array, x: Array, observed: Array | None = None) -> tuple[Array, Array]:
        """Return x [B, C] and ones [B, H, C], both new arrays; zeros for a channel without any value so far.

        row: (B, size), modified in place; x, observed: (B, C), see `fill`.
        """
        unit = np.ones_like(x)
        if observed is not None:
            last, begun = row[:, : self.channels], row[:, self.channels :]
            last[...] = x
            unit = np.maximum(begun, observed)
            begun[...] = unit
        return x.copy(), np.repeat(unit[:, None], self.horizon, axis=1)
