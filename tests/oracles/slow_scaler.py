"""The scalers by their definitions, in float64 and over the whole past: weighted sums, nothing incremental.

One channel at a time: what is observed of one is nothing to another. NaN is a missing value: the last one observed
stands in for it (0 before the first), it is part of no moment and ends no difference.
"""

import numpy as np

ALPHA, WARM, FLOOR = 0.002, 50, 1e-3


def running_weights(n):
    """[n]: how much each of n values counts in a running mean of rate max(1/k, α) at the k-th: they sum to 1."""
    rates = np.maximum(1 / np.arange(1, n + 1), ALPHA)
    return rates * np.append(np.cumprod((1 - rates)[:0:-1])[::-1], 1.0)


def mean(values):
    return running_weights(len(values)) @ np.array(values) if values else 0.0


def deviation(values):
    return np.sqrt(running_weights(len(values)) @ (np.array(values) - mean(values)) ** 2) if values else 0.0


def ratio(a, b):
    """a / b, and 0 where b is 0."""
    return a / b if b > 0 else 0.0


class Channel:
    """One channel's past. held: a value per tick, its own or the one that stood in; observed: its own ones alone."""

    unseen = 0  # leading features that are the head's alone

    def __init__(self, horizon):
        self.horizon, self.held, self.observed = horizon, [], []

    def update(self, x):
        """Take one tick in: features, in the order of model/scalers, and scales [H]."""
        before = mean(self.observed)
        if not np.isnan(x):
            self.observed.append(x)
        self.held.append(self.held[-1] if self.held and np.isnan(x) else np.nan_to_num(x))
        return self.describe(self.held[-1], before, not np.isnan(x))


class Residual(Channel):
    """LEARNING.md's recipe: features u_{t-1}, u_t, l_t; a scale for each step."""

    unseen = 1

    def __init__(self, horizon):
        super().__init__(horizon)
        self.u, self.squares = 0.0, [[] for _ in range(horizon)]  # h-step differences, each capped when it came

    def describe(self, x, mean_before, observed):
        n, sigma, scale = len(self.observed), deviation(self.observed), np.zeros(self.horizon)
        for h in range(1, min(self.horizon, n - 1) + 1):
            square, squares = (x - self.held[-1 - h]) ** 2, self.squares[h - 1]
            if len(squares) >= WARM:
                square = min(square, 25 * (np.sqrt(mean(squares)) + FLOOR * sigma) ** 2)
            if observed:
                squares.append(square)
            scale[h - 1] = np.sqrt(mean(squares)) + FLOOR * sigma
        u_before, self.u = self.u, np.clip(ratio(x - self.held[-2], scale[0]), -6, 6) if n > 1 else 0.0
        level = np.clip(ratio(x - mean_before, sigma), -4, 4) if n > 1 else 0.0
        return [u_before, self.u, level], scale


class Standard(Channel):
    """A z-score by the running moments, this value included; their deviation is the scale of every step."""

    def describe(self, x, mean_before, observed):
        sigma = deviation(self.observed)
        z = ratio(x - mean(self.observed), sigma) if self.observed else 0.0
        return [np.clip(z, -6, 6)], np.full(self.horizon, sigma)


class Plain(Channel):
    """Values as they come; a unit of 1 once there was one."""

    def describe(self, x, mean_before, observed):
        return [x], np.full(self.horizon, float(len(self.observed) > 0))


SLOW_SCALERS = {"residual": Residual, "standard": Standard, "none": Plain}


class SlowScaler:
    """All channels of a stream; `held` are the values [C] that stand for the last tick."""

    def __init__(self, name, channels, horizon):
        self.channels = [SLOW_SCALERS[name](horizon) for _ in range(channels)]
        self.unseen = SLOW_SCALERS[name].unseen * channels
        self.held = np.zeros(channels)

    def update(self, x):
        """Take one tick [C] in: features, channel by channel within each kind, and scales [H, C]."""
        features, scales = zip(*(c.update(value) for c, value in zip(self.channels, x, strict=True)), strict=True)
        self.held = np.array([c.held[-1] for c in self.channels])
        return np.array(features).T.ravel(), np.array(scales).T
