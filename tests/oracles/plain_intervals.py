"""The half-widths of one output, moved error by error in plain Python."""

import math
from statistics import NormalDist


def start(level):
    """The half-width before the first error."""
    return NormalDist().inv_cdf((1 + level) / 2)


def moved(radius, seen, error, level):
    """The half-width after one more error; `seen` errors came before."""
    rate = max(0.05, (seen + 2) ** -0.5)
    outside = error > radius
    return radius * math.exp(rate * (outside - (1 - level)))


def after(errors, level):
    """The half-width after all errors of an output, in order."""
    radius = start(level)
    for seen, error in enumerate(errors):
        radius = moved(radius, seen, error, level)
    return radius
