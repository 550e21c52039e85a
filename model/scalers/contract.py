"""The contract of a scaler: raw values → inputs, and the unit of a forecast. Each scaler has its own file.

Statistics are float32, incremental and causal. They live in a state row that starts as zeros. With every scaler, a
forecast of task `forecast` is the last value plus scale times the readout's output.

With `hold`, a value may be missing: the newest observed one replaces it (`fill`), and the statistics of its channel
stay. Every channel then counts its own ticks, so that the other channels are not affected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from model.bounds import Bound, constant

Array = NDArray[np.float32]

ALPHA = 0.002  # slowest rate of the running statistics: a memory of 500 ticks
TINY = 1e-20  # absolute; matters only to a channel that has never changed
# Counts saturate here: 1/t is below ALPHA long before, and float32 counts exactly only up to 2**24.
MAX_COUNT = 1e6


class Scaler(Protocol):
    """Settings and layout; the statistics are an argument of every method. Each scaler has an ONNX twin."""

    @property
    def channels(self) -> int:
        """C: values of one tick."""
        ...

    @property
    def horizon(self) -> int:
        """H: steps ahead, each with a scale of its own."""
        ...

    @property
    def hold(self) -> bool:
        """Whether values may be missing."""
        ...

    @property
    def parts(self) -> tuple[int, ...]:
        """Sizes of the parts of a statistics row, in order. The ONNX twin reads and returns the parts one by one."""
        ...

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """The range of each of `parts` after any ticks from zeros.

        From any row within these bounds, a put one too, updates stay within SLACK times the bounds and finite.
        """
        ...

    @property
    def size(self) -> int:
        """Length of the statistics part of a state row."""
        ...

    @property
    def features(self) -> int:
        """Columns of the features that `update` returns."""
        ...

    @property
    def unseen(self) -> int:
        """Number of leading feature columns that only the head reads."""
        ...

    @property
    def held(self) -> slice:
        """With `hold`: columns of a row with each channel's newest observed value, 0 before the first."""
        ...

    def update(self, row: Array, x: Array, observed: Array | None = None) -> tuple[Array, Array]:
        """Update the statistics with one tick; return features [B, features] and scales [B, H, C], both new arrays.

        row: (B, size), modified in place; x and observed: (B, C) as `fill` returns them, only read.
        A scale is 0 until it is known: the forecast is then the last value, and a label for that origin does not count.
        """
        ...


@dataclass(frozen=True)
class Settings:
    """Settings that every scaler has, and what follows from its `parts`. The statistics live in a state row."""

    HELD: ClassVar[int]  # the part whose first C columns hold each channel's newest value

    channels: int
    horizon: int
    hold: bool = False

    @property
    def parts(self) -> tuple[int, ...]:
        """Sizes of the row's parts, in the order of the class's docstring."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """Length of the statistics part of a state row."""
        return sum(self.parts)

    @property
    def features(self) -> int:
        """C: one feature per channel."""
        return self.channels

    @property
    def unseen(self) -> int:
        """0: the cells read all that the head reads."""
        return 0

    @property
    def held(self) -> slice:
        """Columns of a row with each channel's newest value."""
        start = sum(self.parts[: self.HELD])
        return slice(start, start + self.channels)


def fill(scaler: Scaler, row: Array, x: Array) -> tuple[Array, Array | None]:
    """Return x [B, C] with missing values replaced by the newest observed ones, and the mask [B, C], 1 observed.

    Both are new arrays. Without `hold`: x itself and None.
    """
    if not scaler.hold:
        return x, None
    missing = np.isnan(x)
    return np.where(missing, row[:, scaler.held], x), (~missing).astype(np.float32)


def split(row: Array, sizes: tuple[int, ...]) -> list[Array]:
    """Return the parts of rows [B, sum of sizes] as views: `np.split` in a tenth of its time."""
    views, start = [], 0
    for size in sizes:
        views.append(row[:, start : start + size])
        start += size
    return views


def count(before: Array, observed: Array | None) -> Array:
    """Return the ticks seen, this one included: (B, 1), or (B, C) observed values per channel with `hold`."""
    t: Array = np.minimum(before + (constant(1) if observed is None else observed), constant(MAX_COUNT))
    return t


def rate(t: Array, observed: Array | None) -> Array:
    """Return the rate of running statistics at the t-th value: 1/t, at least ALPHA; 0 where it was not observed."""
    a: Array = np.maximum(constant(1) / np.maximum(t, constant(1)), constant(ALPHA))
    return a if observed is None else a * observed
