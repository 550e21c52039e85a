"""Each loss at one position in plain Python, labels for it, and the right forecast for a label."""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np


def plain_mse(spec, p, y, weight):
    return sum(w * (a - b) ** 2 / 2 for a, b, w in zip(p, y, weight, strict=True))


def plain_huber(spec, p, y, weight):
    total, delta = 0.0, spec.huber_delta
    for a, b, w in zip(p, y, weight, strict=True):
        size = abs(a - b)
        total += w * (size**2 / 2 if size <= delta else delta * size - delta**2 / 2)
    return total


def plain_cross_entropy(spec, p, y, weight):
    if not any(weight):
        return 0.0
    log_of_sum = math.log(sum(math.exp(a) for a in p))
    entropy = sum(b * (log_of_sum - a) for a, b in zip(p, y, strict=True))
    return max(weight) * entropy * sum(b * w for b, w in zip(y, spec.class_weights, strict=True))


def spread(raw, start):
    """The size that a raw value stands for: 0.01 + log(1 + exp(raw + c)), where raw = 0 gives `start`."""
    return 0.01 + math.log1p(math.exp(raw + math.log(math.expm1(start - 0.01))))


def plain_pinball(spec, p, y, weight):
    """Quantiles one by one, from the median outwards. Columns in blocks of outputs: median, below, above."""
    n, total = len(y), 0.0
    normal = [0.0, *(NormalDist().inv_cdf((1 + level) / 2) for level in spec.intervals)]
    L = len(spec.intervals)
    for o in range(n):
        below = above = p[o]
        quantiles = [(0.5, p[o])]
        for k, level in enumerate(spec.intervals):
            start = normal[k + 1] - normal[k]
            below -= spread(p[(1 + k) * n + o], start)
            above += spread(p[(1 + L + k) * n + o], start)
            quantiles += [((1 - level) / 2, below), ((1 + level) / 2, above)]
        costs = [tau * (y[o] - q) if y[o] >= q else (1 - tau) * (q - y[o]) for tau, q in quantiles]
        total += weight[o] * 2 * sum(costs) / len(costs)
    return total


def plain_gaussian(spec, p, y, weight):
    n = len(y)
    parts = [(p[o] - y[o], spread(p[n + o], 1.0), weight[o]) for o in range(n)]
    return sum(w * (math.log(s) + (e / s) ** 2 / 2) for e, s, w in parts)


def plain_student_t(spec, p, y, weight):
    n, nu = len(y), spec.degrees
    parts = [(p[o] - y[o], spread(p[n + o], 1.0), weight[o]) for o in range(n)]
    return sum(w * (math.log(s) + (nu + 1) / 2 * math.log(1 + (e / s) ** 2 / nu)) for e, s, w in parts)


def exact(columns):
    """The right forecast of a loss with a spread: the label, with the least spread that there is."""
    return lambda y: np.concatenate([y, np.full((*y.shape[:-1], (columns - 1) * y.shape[-1]), -64.0)], axis=-1)


def values(rng, shape):
    return rng.normal(0, 1, shape)


def probabilities(rng, shape):
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1])


# name: the loss of one position, labels to draw, the right forecast
LOSSES: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = {
    "mse": (plain_mse, values, lambda y: y),
    "huber": (plain_huber, values, lambda y: y),
    "cross_entropy": (plain_cross_entropy, probabilities, np.log),
    "pinball": (plain_pinball, values, exact(5)),
    "gaussian": (plain_gaussian, values, exact(2)),
    "student_t": (plain_student_t, values, exact(2)),
}
