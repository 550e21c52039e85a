"""Learning rates as pure functions of the number of updates so far, so that learning stays a fold.

`SCHEDULES` maps the spec's name to a schedule. All start with the spec's warm-up: update k, from 1, has k/warmup of the
rate, so that the first updates of a new optimizer are small but not zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from model.spec import ModelSpec

Schedule = Callable[[int], float]

FLOOR = 0.1  # final share of the rate


def constant(rate: float, warmup: int) -> Schedule:
    """Return a schedule with a constant rate after the warm-up."""
    return lambda updates: rate * _risen(updates, warmup)


def cosine(rate: float, warmup: int, length: int) -> Schedule:
    """Return a schedule that falls by half a cosine to a tenth of the rate in `length` updates after the warm-up.

    It stays at a tenth. Source: Loshchilov & Hutter, arXiv:1608.03983, eq. 5, without restarts.
    """

    def at(updates: int) -> float:
        progress = min(max(0, updates - warmup) / length, 1.0)
        return rate * _risen(updates, warmup) * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * progress)))

    return at


def inverse_sqrt(rate: float, warmup: int, length: int) -> Schedule:
    """Return a schedule in which update k has rate·min(k/warmup, √(warmup/k)).

    Without a warm-up, that formula is undefined; the rate is then rate/√(1 + 99·updates/length), which starts at the
    rate and falls to a tenth of it in `length` updates, as cosine does.
    Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 3, scaled.
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


def schedule_of(spec: ModelSpec) -> Schedule:
    """Return the spec's schedule, which never falls below `rate_floor` after the warm-up."""
    falling = SCHEDULES[spec.schedule](spec)
    if not spec.rate_floor:
        return falling
    return lambda updates: max(falling(updates), spec.rate_floor * _risen(updates, spec.warmup))
