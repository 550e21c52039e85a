"""What the diagonal recurrences, `mingru` and `lru`, share: the floor of their inputs, and a scan that keeps out of
subnormal numbers, with which some processors compute 2–3 times slower.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from model.parameters import Array

# Added to what a state sums up. A state without input decays to about this size, and never to a subnormal number; of
# anything larger than 1e-23 it changes no bit.
FLOOR = 2.0**-100
# Largest number of such a state: an input of 1e15, weights that add up to 69, and 1,449 of them, as an lru sums up.
MAX_SUM = 1e20
FLUSH_EVERY = 8  # steps back between two searches for vanished gradients


class Flush:
    """Sets vanished gradients to zero: those below 2²⁶ times the smallest normal number, 8e-31 in float32."""

    def __init__(self, shape: tuple[int, ...], dtype: type[np.floating[Any]]) -> None:
        self._least = np.array(np.finfo(dtype).tiny * 2.0**26, dtype)
        self._size, self._kept = np.empty(shape, dtype), np.empty(shape, np.bool_)

    def __call__(self, D: Array) -> None:
        """Flush D, of the shape given, in place."""
        np.abs(D, out=self._size)
        np.greater(self._size, self._least, out=self._kept)
        np.multiply(D, self._kept, out=D)
