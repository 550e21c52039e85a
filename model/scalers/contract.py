"""The contract of a scaler: raw values → inputs, and the unit of a forecast. One file per scaler in `scalers/`.

Statistics are float32, incremental, causal, and live in a state row that begins with zeros. A forecast of task
`forecast` is the last value plus scale times what the readout says, whichever scaler it is.

With `hold`, a value may be missing: the newest one observed stands in for it (`fill`), and no statistic of its channel
moves. Then every channel counts its own ticks, so that the others do not notice.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.bounds import Bound

Array = NDArray[np.float32]

ALPHA = 0.002  # slowest rate of the running statistics: a memory of 500 ticks
TINY = 1e-20  # absolute; only a channel that never moved meets it
# Counts saturate here: 1/t is below ALPHA long before, and float32 counts exactly only to 2**24.
MAX_COUNT = 1e6


class Scaler(Protocol):
    """Settings and layout; the statistics themselves are an argument everywhere. Each has an ONNX twin."""

    @property
    def channels(self) -> int:
        """C: values of one tick."""
        ...

    @property
    def horizon(self) -> int:
        """H: steps ahead that a scale is needed for."""
        ...

    @property
    def hold(self) -> bool:
        """Whether values may be missing."""
        ...

    @property
    def parts(self) -> tuple[int, ...]:
        """Sizes of the parts of a statistics row, in order: the ONNX twin takes and gives them one by one."""
        ...

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """What each of `parts` can hold after any ticks from zeros. From a row within, also one put, no update leaves
        SLACK times them, and from there nothing is infinite."""
        ...

    @property
    def size(self) -> int:
        """Length of the statistics part of a state row."""
        ...

    @property
    def features(self) -> int:
        """Columns of the features that `update` gives."""
        ...

    @property
    def unseen(self) -> int:
        """How many of those, the leading ones, only the head reads."""
        ...

    @property
    def held(self) -> slice:
        """With `hold`: the columns of a row in which each channel's newest observed value lies, 0 before the first."""
        ...

    def update(self, row: Array, x: Array, observed: Array | None = None) -> tuple[Array, Array]:
        """Take one tick in: returns features [B, features] and scales [B, H, C], both new arrays.

        row: (B, size), modified in place; x: (B, C) and observed are only read, and are what `fill` gives: with `hold`,
        observed is (B, C), 1 where x is a value and 0 where it stands in for one.
        A scale is 0 where nothing is known of it yet: such a forecast is the last value, and a label for such an origin
        does not count.
        """
        ...


def fill(scaler: Scaler, row: Array, x: Array) -> tuple[Array, Array | None]:
    """What stands for x [B, C], and which of it was observed: 1 or 0 [B, C], both new. Without `hold`: x and None."""
    if not scaler.hold:
        return x, None
    missing = np.isnan(x)
    return np.where(missing, row[:, scaler.held], x), (~missing).astype(np.float32)


def count(before: Array, observed: Array | None) -> Array:
    """Ticks seen, this one included: (B, 1), or (B, C) where a channel counts what was observed of it."""
    t: Array = np.minimum(before + (np.float32(1) if observed is None else observed), np.float32(MAX_COUNT))
    return t


def rate(t: Array, observed: Array | None) -> Array:
    """Rate of running statistics at the t-th value: 1/t, α at least, and 0 where it was not observed."""
    a: Array = np.maximum(1 / np.maximum(t, np.float32(1)), np.float32(ALPHA))
    return a if observed is None else a * observed
