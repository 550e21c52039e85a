"""No scaler: values as they come. For data that is scaled already: forecasts are not equivariant under x → a·x + b."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.scaler import Array


@dataclass(frozen=True)
class NoScaler:
    """Settings; there are no statistics. Inputs are the values, and every forecast's unit is 1.

    Targets are clipped to ±8 as with every scaler, so changes beyond 8 are not learned in full.
    """

    channels: int
    horizon: int

    @property
    def parts(self) -> tuple[int, ...]:
        """None."""
        return ()

    @property
    def size(self) -> int:
        """0."""
        return 0

    @property
    def features(self) -> int:
        """C: the values."""
        return self.channels

    @property
    def unseen(self) -> int:
        """0: the cells read all that the head reads."""
        return 0

    def update(self, row: Array, x: Array) -> tuple[Array, Array]:
        """Returns x [B, C] and ones [B, H, C], both new arrays. row: (B, 0)."""
        return x.copy(), np.ones((len(x), self.horizon, self.channels), x.dtype)
