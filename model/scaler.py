"""The contract of a scaler: raw values → inputs, and the unit of a forecast. One file per scaler in `scalers/`.

Statistics are float32, incremental, causal, and live in a state row that begins with zeros. A forecast of task
`forecast` is the last value plus scale times what the readout says, whichever scaler it is.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

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
    def parts(self) -> tuple[int, ...]:
        """Sizes of the parts of a statistics row, in order: the ONNX twin takes and gives them one by one."""
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

    def update(self, row: Array, x: Array) -> tuple[Array, Array]:
        """Take one tick in: returns features [B, features] and scales [B, H, C], both new arrays.

        row: (B, size), modified in place; x: (B, C), only read. A scale is 0 where nothing is known of it yet: such a
        forecast is the last value, and a label for such an origin does not count.
        """
        ...
