"""Each task at one position in plain Python: the answer for p; the score of p for a target, and its residuals."""

import math


def softmax(p):
    total = sum(math.exp(v) for v in p)
    return [math.exp(v) / total for v in p]


def forecast(spec, target, p, last, scale):
    """p: horizon × targets, those of step 1 first; last: one value per target; scale: one value per step and target."""
    steps = [p[h * len(last) : (h + 1) * len(last)] for h in range(spec.horizon)]
    return [x + s * v for step, row in zip(steps, scale, strict=True) for v, x, s in zip(step, last, row, strict=True)]


def regress(spec, target, p, last, scale):
    return [m + s * v for v, m, s in zip(p, target["mean"], target["scale"], strict=True)]


def classify(spec, target, p, last, scale):
    return softmax(p)


def clipped_square(spec, p, y, weight):
    """Return (sum, weight) of one position."""
    return sum(w * min((a - b) ** 2, 4) / 4 for a, b, w in zip(p, y, weight, strict=True)), sum(weight)


def brier(spec, p, y, weight):
    size = max(weight) * sum(b * w for b, w in zip(y, spec.class_weights, strict=True))
    return size * sum((a - b) ** 2 for a, b in zip(softmax(p), y, strict=True)) / 2, size


def differences(p, y):
    return [a - b for a, b in zip(p, y, strict=True)]


def probability_differences(p, y):
    return [a - b for a, b in zip(softmax(p), y, strict=True)]


# name: answer, score and residuals of one position
TASKS = {
    "forecast": (forecast, clipped_square, differences),
    "regress": (regress, clipped_square, differences),
    "classify": (classify, brier, probability_differences),
}
