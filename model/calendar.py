"""Calendar inputs, known ahead of the next tick: its position in the day and in the week."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DAY_S = 86400.0
WEEK_S = 7 * DAY_S
# Weeks begin on Monday; 1970-01-01 was a Thursday.
MONDAY_S = 4 * DAY_S
FEATURES = 4


def size(interval: float) -> int:
    """Return F, the number of calendar inputs of a model with this interval in seconds: 4, or 0 without one."""
    return FEATURES if interval > 0 else 0


def inputs(time: NDArray[np.float64], interval: float) -> NDArray[np.float32]:
    """Return u [B, F] float32: sine and cosine of the time of day, then of the day of the week, one interval later.

    time: (B,) event times, seconds since 1970-01-01 UTC; interval: seconds per tick, 0 gives F = 0.
    Edge, trainer and backtest share this function, so that all use the same numbers.
    """
    if interval <= 0:
        return np.zeros((len(time), 0), np.float32)
    ahead = np.asarray(time, np.float64) + interval
    day = (2 * np.pi / DAY_S) * np.mod(ahead, DAY_S)
    week = (2 * np.pi / 7) * np.floor(np.mod(ahead - MONDAY_S, WEEK_S) / DAY_S)
    return np.stack([np.sin(day), np.cos(day), np.sin(week), np.cos(week)], axis=1).astype(np.float32)
