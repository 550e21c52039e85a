"""Learning rates as functions of how many updates were made before: pure, so that learning stays a fold.

A registry entry makes the schedule that a spec asks for. All begin with the spec's warm-up: the k-th update has
k/warmup of the rate, so that the first updates of a fresh optimizer are small and none is of size zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from model.spec import ModelSpec

Schedule = Callable[[int], float]

FLOOR = 0.1  # what cosine leaves of the rate


def constant(rate: float, warmup: int) -> Schedule:
    """The rate itself."""
    return lambda updates: rate * _risen(updates, warmup)


def cosine(rate: float, warmup: int, length: int) -> Schedule:
    """Half a cosine from the rate to a tenth of it in `length` updates after the warm-up, and a tenth from there on.

    Source: Loshchilov & Hutter, arXiv:1608.03983, eq. 5, without restarts.
    """

    def at(updates: int) -> float:
        progress = min(max(0, updates - warmup) / length, 1.0)
        return rate * _risen(updates, warmup) * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * progress)))

    return at


def inverse_sqrt(rate: float, warmup: int, length: int) -> Schedule:
    """The k-th update has rate·min(k/warmup, √(warmup/k)): Vaswani et al. 2017 (arXiv:1706.03762), eq. 3, scaled.

    Without a warm-up that has no beginning; then it is rate/√(1 + 99·updates/length), which begins with the rate and
    has a tenth of it after `length` updates, as cosine has.
    """

    def at(updates: int) -> float:
        if not warmup:
            return rate / math.sqrt(1 + (1 / FLOOR**2 - 1) * updates / length)
        return rate * min((updates + 1) / warmup, math.sqrt(warmup / (updates + 1)))

    return at


def _risen(updates: int, warmup: int) -> float:
    return min(1.0, (updates + 1) / warmup) if warmup else 1.0


SCHEDULES: dict[str, Callable[[ModelSpec], Schedule]] = {
    "constant": lambda spec: constant(spec.learning_rate, spec.warmup),
    "cosine": lambda spec: cosine(spec.learning_rate, spec.warmup, spec.schedule_updates),
    "inverse_sqrt": lambda spec: inverse_sqrt(spec.learning_rate, spec.warmup, spec.schedule_updates),
}
