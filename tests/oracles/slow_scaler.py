"""The scalers by their definitions, in float64 and over the whole past: weighted sums, nothing incremental.

`update(x)` takes one tick [C] in and returns the features in the order of model/scalers, and the scales [H, C]; the
first `unseen` features are the head's alone.
"""

import numpy as np

ALPHA, WARM, FLOOR = 0.002, 50, 1e-3


def running_weights(n):
    """[n]: how much each of n values counts in a running mean of rate max(1/k, α) at the k-th: they sum to 1."""
    rates = np.maximum(1 / np.arange(1, n + 1), ALPHA)
    return rates * np.append(np.cumprod((1 - rates)[:0:-1])[::-1], 1.0)


def moments(values):
    """Running mean and deviation of the values [n, C] so far: [C] each."""
    weights = running_weights(len(values))
    mean = weights @ values
    return mean, np.sqrt(weights @ (values - mean) ** 2)


def ratio(a, b):
    """a / b, and 0 / 0 = 0."""
    return a / np.where(b > 0, b, 1)


class SlowResidual:
    """LEARNING.md's recipe: features u_{t-1}, u_t, l_t; a scale for each step."""

    def __init__(self, channels, horizon):
        self.values, self.horizon, self.unseen = [], horizon, channels
        self.u = np.zeros(channels)
        self.squares = [[] for _ in range(horizon)]  # squared h-step differences, each capped when it came

    def update(self, x):
        before = moments(np.array(self.values))[0] if self.values else x
        self.values.append(np.array(x, np.float64))
        values, n = np.array(self.values), len(self.values)
        _, sigma = moments(values)
        scale = np.zeros((self.horizon, len(x)))
        for h in range(1, min(self.horizon, n - 1) + 1):
            square, squares = (values[-1] - values[-1 - h]) ** 2, self.squares[h - 1]
            if len(squares) >= WARM:
                running = running_weights(len(squares)) @ np.array(squares)
                square = np.minimum(square, 25 * (np.sqrt(running) + FLOOR * sigma) ** 2)
            squares.append(square)
            scale[h - 1] = np.sqrt(running_weights(len(squares)) @ np.array(squares)) + FLOOR * sigma
        u_before, self.u = self.u, np.zeros(len(x))
        if n > 1:
            self.u = np.clip(ratio(x - values[-2], scale[0]), -6, 6)
        level = np.clip(ratio(x - before, sigma), -4, 4)
        return np.concatenate([u_before, self.u, level]), scale


class SlowStandard:
    """z-scores by the running moments, this value included; their deviation is the scale of every step."""

    unseen = 0

    def __init__(self, channels, horizon):
        self.values, self.horizon = [], horizon

    def update(self, x):
        self.values.append(np.array(x, np.float64))
        mean, sigma = moments(np.array(self.values))
        return np.clip(ratio(x - mean, sigma), -6, 6), np.tile(sigma, (self.horizon, 1))


class SlowNone:
    """Values as they come."""

    unseen = 0

    def __init__(self, channels, horizon):
        self.horizon = horizon

    def update(self, x):
        return np.array(x, np.float64), np.ones((self.horizon, len(x)))


SLOW_SCALERS = {"residual": SlowResidual, "standard": SlowStandard, "none": SlowNone}
