"""Token buckets that limit ticks, or their work, per second: one per stream, one per tenant, one for the server.

A bucket is one number, the time at which it will be full again (virtual scheduling, ITU-T I.371). Spending n tokens
adds n / per_s to it; it may lie ahead of now by at most the time that an empty bucket takes to fill. Pure functions of
monotonic time.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
BURST_S = 1.0  # a full bucket holds the tokens of this time, and at least one
ROUNDING_S = 1e-9  # so that a caller after exactly `wait` is admitted: sums of float64 seconds err by less


class Rate:
    """A limit of `per_s` tokens per second, above 0. Times are seconds of one monotonic clock.

    one: seconds in which one token comes back.
    """

    __slots__ = ("_slack", "one", "per_s")

    def __init__(self, per_s: float) -> None:
        self.per_s, self.one = per_s, 1 / per_s
        # A bucket has a token while the time at which it is full lies at most this far ahead of now.
        self._slack = max(BURST_S - self.one, 0.0) + ROUNDING_S

    def wait(self, full_at: float, now: float) -> float:
        """Return the seconds until the bucket has a token; 0 if it has one."""
        wait = full_at - now - self._slack
        return wait if wait > 0.0 else 0.0

    def has_token(self, full_at: Times, now: float) -> NDArray[np.bool_]:
        """Return which of many buckets have a token now: those whose `wait` is 0."""
        return full_at - now <= self._slack

    def tokens(self, full_at: float, now: float) -> int:
        """Return the number of tokens in the bucket."""
        ahead = max(full_at - now, 0.0)
        return max(math.floor((self._slack - ahead) * self.per_s) + 1, 0)

    def portions(self, full_at: float, now: float, cost: float) -> int:
        """Return how many portions of `cost` tokens may be taken now: those that begin while the bucket has a token.

        A portion may cost more than a full bucket; the next one then waits until the bucket has recovered.
        """
        return math.ceil(self.tokens(full_at, now) / cost)

    def spend(self, full_at: float, now: float, n: float = 1) -> float:
        """Return when the bucket is full again after n tokens are spent."""
        return (full_at if full_at > now else now) + n * self.one

    def spend_each(self, full_at: Times, now: float) -> Times:
        """Return `spend` of one token from each bucket, as a new array."""
        return np.maximum(full_at, now) + self.one
