"""When to retry and when to give up. Pure: time and randomness are arguments."""

from __future__ import annotations

import random

FIRST_S = 0.05
LONGEST_S = 2.0


class Backoff:
    """Delays of 0.05 s, doubling up to 2 s, each shortened at random by up to half to spread clients out.

    give_up_s: seconds without success, from the first failure, until it gives up.
    """

    def __init__(self, give_up_s: float, rng: random.Random) -> None:
        self.give_up_s, self._rng = give_up_s, rng
        self._failures = 0
        self._failing_since: float | None = None

    def succeeded(self) -> None:
        """Reset: the next failure is a first one."""
        self._failures, self._failing_since = 0, None

    def failed(self, now: float, at_once: bool = False) -> float | None:
        """Return the seconds to wait before the next try; None to give up. now: any monotonic clock, seconds.

        at_once: there is another node to try, without waiting.
        """
        if self._failing_since is None:
            self._failing_since = now
        if at_once:
            return 0.0
        if now - self._failing_since >= self.give_up_s:
            return None
        wait = min(LONGEST_S, FIRST_S * 2.0 ** min(self._failures, 10))
        self._failures += 1
        return wait * self._rng.uniform(0.5, 1.0)
