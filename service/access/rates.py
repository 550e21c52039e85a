"""Ticks, or their work, per second: a bucket of tokens for each stream, each tenant, and one for the server. Plain
functions of monotonic time.

A bucket is one number, the time at which it will be full again (virtual scheduling, ITU-T I.371): to take n tokens
moves that time on by n / per_s, and it may not be further ahead of now than an empty bucket takes to fill.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
BURST_S = 1.0  # a full bucket holds the tokens of so long, and at least one
ROUNDING_S = 1e-9  # whoever comes after exactly `wait` is let in: sums of float64 seconds are off by less


class Rate:
    """A bound: `per_s` tokens per second, above 0. Times are seconds of one monotonic clock."""

    __slots__ = ("_one", "_slack", "per_s")

    def __init__(self, per_s: float) -> None:
        self.per_s, self._one = per_s, 1 / per_s
        # So far ahead of now a bucket may be full again that still has a token.
        self._slack = max(BURST_S - self._one, 0.0) + ROUNDING_S

    def wait(self, full_at: float, now: float) -> float:
        """Seconds until the bucket has a token; 0 if it has one."""
        return max(full_at - now - self._slack, 0.0)

    def has_token(self, full_at: Times, now: float) -> NDArray[np.bool_]:
        """Of many buckets, which have a token now: those whose `wait` is 0."""
        return full_at - now <= self._slack

    def tokens(self, full_at: float, now: float) -> int:
        """How many tokens the bucket has."""
        ahead = max(full_at - now, 0.0)
        return max(math.floor((self._slack - ahead) * self.per_s) + 1, 0)

    def portions(self, full_at: float, now: float, cost: float) -> int:
        """How many portions of `cost` tokens each may be taken now: those that begin while the bucket has a token. So
        one may cost more than a full bucket, and the next waits until that is paid."""
        return math.ceil(self.tokens(full_at, now) / cost)

    def take(self, full_at: float, now: float, n: float = 1) -> float:
        """When the bucket is full again once n of its tokens are taken."""
        return max(full_at, now) + n * self._one

    def take_each(self, full_at: Times, now: float) -> Times:
        """`take` of one token of each bucket; new."""
        return np.maximum(full_at, now) + self._one
