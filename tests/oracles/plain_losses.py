"""Each loss at one position in plain Python, labels for it, and the right forecast for a label."""

import math
from collections.abc import Callable
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


def values(rng, shape):
    return rng.normal(0, 1, shape)


def probabilities(rng, shape):
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1])


# name: the loss of one position, labels to draw, the right forecast
LOSSES: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = {
    "mse": (plain_mse, values, lambda y: y),
    "huber": (plain_huber, values, lambda y: y),
    "cross_entropy": (plain_cross_entropy, probabilities, np.log),
}
