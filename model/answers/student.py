"""Quantiles of Student's t distribution, for prediction intervals: a pure function, whose last results are kept."""

from __future__ import annotations

import math
from functools import lru_cache

TERMS = 500  # of the continued fraction; 60 are enough for all degrees that a spec accepts
TINY = 1e-300


@lru_cache(maxsize=64)  # bisection takes a millisecond
def quantile(probability: float, degrees: float) -> float:
    """Return the quantile of `probability`, 0.5 to 1 without 1, of the t distribution with `degrees` degrees of
    freedom, by bisection of its distribution function.
    """
    low, high = 0.0, 1.0
    while upper_tail(high, degrees) > 1 - probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if upper_tail(middle, degrees) > 1 - probability else (low, middle)
    return (low + high) / 2


def upper_tail(t: float, degrees: float) -> float:
    """Return P(T > t) for t >= 0: half of I_x(degrees/2, 1/2) at x = degrees/(degrees + t²).

    Source: Abramowitz & Stegun, 26.7.1 and 26.5.27.
    """
    return 0.5 * incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5)


def incomplete_beta(x: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function I_x(a, b), 0 <= x <= 1.

    Source: Abramowitz & Stegun, 26.5.8, the continued fraction, evaluated by Lentz's method (Press et al., Numerical
    Recipes, 3rd ed., section 6.4); beyond (a + 1)/(a + b + 2) by symmetry, because it converges slowly there.
    """
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(1 - x, b, a)
    front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    total = d
    for m in range(1, TERMS):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / _away(1 + step * d), _away(1 + step / c)
            total *= c * d
        if abs(c * d - 1) < 1e-16:
            break
    return math.exp(front) * total / a


def _away(value: float) -> float:
    return value if abs(value) > TINY else TINY
