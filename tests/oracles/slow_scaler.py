"""The scalers by their definitions, in float64: those of revision 1 as weighted sums over the whole past, the robust
ones value by value with an if for each case.

Channels are independent. NaN is a missing value: the last observed value replaces it (0 before the first). It does not
enter the moments and does not end a difference.
"""

import numpy as np

ALPHA, WARM, FLOOR = 0.002, 50, 1e-3


def running_weights(n):
    """Return the weights [n] of n values in a running mean with rate max(1/k, α) at value k. They sum to 1."""
    rates = np.maximum(1 / np.arange(1, n + 1), ALPHA)
    return rates * np.append(np.cumprod((1 - rates)[:0:-1])[::-1], 1.0)


def mean(values):
    return running_weights(len(values)) @ np.array(values) if values else 0.0


def deviation(values):
    return np.sqrt(running_weights(len(values)) @ (np.array(values) - mean(values)) ** 2) if values else 0.0


def ratio(a, b):
    """Return a / b, or 0 if b is 0."""
    return a / b if b > 0 else 0.0


class Channel:
    """The past of one channel. held: one value per tick, with replacements; observed: the observed values only."""

    unseen = 0  # leading features that only the head sees

    def __init__(self, horizon):
        self.horizon, self.held, self.observed = horizon, [], []

    def describe(self, x, mean_before, observed):
        """Return features and scales [H] after x. mean_before excludes x; observed: whether x is not a replacement."""
        raise NotImplementedError

    def update(self, x):
        """Add one tick. Returns features, in the order of model/scalers, and scales [H]."""
        before = mean(self.observed)
        if not np.isnan(x):
            self.observed.append(x)
        self.held.append(self.held[-1] if self.held and np.isnan(x) else np.nan_to_num(x))
        return self.describe(self.held[-1], before, not np.isnan(x))


class ResidualV1(Channel):
    """The recipe of LEARNING.md: features u_{t-1}, u_t, l_t; one scale for each step."""

    unseen = 1

    def __init__(self, horizon):
        super().__init__(horizon)
        self.u = 0.0
        self.squares: list[list[float]] = [[] for _ in range(horizon)]  # h-step differences, capped when added

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


class StandardV1(Channel):
    """A z-score by the running moments, this value included. Their deviation is the scale of every step."""

    def describe(self, x, mean_before, observed):
        sigma = deviation(self.observed)
        z = ratio(x - mean(self.observed), sigma) if self.observed else 0.0
        return [np.clip(z, -6, 6)], np.full(self.horizon, sigma)


def between(low, value, high):
    return min(max(value, low), high)


def above(value, dead):
    return between(0, (value - dead) / (1 - dead), 1)


class Robust(Channel):
    """Common part of the robust scalers: bounded influence, see model/scalers/robust.py."""

    def __init__(self, horizon):
        super().__init__(horizon)
        self.pace = self.trend = self.haste = self.shift = self.level = self.variance = 0.0
        self.squares = np.zeros(horizon)

    def rate(self, seen):
        return max(1 / seen, ALPHA, self.haste)

    def follow_pace(self, change):
        size = abs(change)
        if not size:
            return
        evidence = between(-1, 1.25 * (size - self.pace) / (size + self.pace), 1)
        self.trend += 0.25 * (evidence - self.trend)
        if not self.pace:
            self.pace = size
            return
        ratio = between(1 / 400, size / self.pace, 400)
        hurry = 0.8 * above(self.trend * evidence, 0.6)
        self.pace *= (1 - hurry) * ratio ** (1 / 16) + hurry * ratio**0.5

    def follow_squares(self, n, observed, floor):
        x = self.held[-1]
        one_step = self.squares[0]
        for h in range(1, min(self.horizon, n - 1) + 1):
            known = self.squares[h - 1] if n - h > 1 else h * one_step
            bound = max(np.sqrt(known), self.pace) + floor
            square = min((x - self.held[-1 - h]) ** 2, 25 * bound**2)
            if observed:
                self.squares[h - 1] += self.rate(n - h) * (square - self.squares[h - 1])

    def pull(self, observed):
        """Return the fraction of its distance by which the level jumps."""
        if not observed:
            return 0.0
        factor = 1.0
        if self.pace and self.squares[0]:
            ratio = np.sqrt(self.squares[0]) / self.pace
            factor = between(1 / 5, ratio, 5) / ratio
        excess = max(factor, 1 / factor)
        self.haste = max(self.haste / (1 + self.haste), (1 - 1 / np.sqrt(excess)) / 24)
        self.squares *= factor
        self.variance *= factor
        return between(0, (excess - 1.5) / 1.5, 1)

    def follow_level(self, x, n, jolt):
        """Return the distance of x from the previous level, then update the level."""
        off = x - self.level
        if n == 1:
            self.level = x
            return 0.0
        wide = max(np.sqrt(self.variance), np.sqrt(self.squares[0]))
        evidence = between(-1, off / (4 * wide), 1) if wide else 0.0
        self.shift += (evidence - self.shift) / 8
        jump = max(above(self.shift * evidence, 0.75) / 2, jolt)
        rest = between(-5 * wide, (1 - jump) * off, 5 * wide)
        a = self.rate(n)
        trusted = a * (1 - above(self.shift * evidence, 0.25))
        self.variance = (1 - trusted) * (self.variance + trusted * rest**2)
        self.level += jump * off + a * rest
        return off


class Residual(Robust):
    """Features u_{t-1}, u_t, l_t; one scale for each step."""

    unseen = 1

    def __init__(self, horizon):
        super().__init__(horizon)
        self.u = 0.0

    def describe(self, x, mean_before, observed):
        n, scale = len(self.observed), np.zeros(self.horizon)
        change = x - self.held[-2] if n > 1 else 0.0
        self.follow_pace(change)
        self.follow_squares(n, observed, FLOOR * np.sqrt(self.variance))
        off = x - self.level if n > 1 else 0.0
        jolt = self.pull(observed)
        if observed:
            self.follow_level(x, n, jolt)
        sigma = np.sqrt(self.variance)
        for h in range(1, min(self.horizon, n - 1) + 1):
            scale[h - 1] = np.sqrt(self.squares[h - 1]) + FLOOR * sigma
        u_before, self.u = self.u, np.clip(ratio(change, scale[0]), -6, 6)
        return [u_before, self.u, np.clip(ratio(off, sigma), -4, 4)], scale


class Standard(Robust):
    """A z-score by the running moments, this value included. Their deviation is the scale of every step."""

    def __init__(self, horizon):
        super().__init__(1)
        self.steps = horizon

    def describe(self, x, mean_before, observed):
        n = len(self.observed)
        self.follow_pace(x - self.held[-2] if n > 1 else 0.0)
        self.follow_squares(n, observed, 0.0)
        jolt = self.pull(observed)
        if observed:
            self.follow_level(x, n, jolt)
        sigma = np.sqrt(self.variance)
        z = ratio(x - self.level, sigma) if n else 0.0
        return [np.clip(z, -6, 6)], np.full(self.steps, sigma)


class Plain(Channel):
    """Raw values; the scale is 1 after the first value."""

    def describe(self, x, mean_before, observed):
        return [x], np.full(self.horizon, float(len(self.observed) > 0))


SLOW_SCALERS = {
    "residual": Residual,
    "standard": Standard,
    "none": Plain,
    "residual_v1": ResidualV1,
    "standard_v1": StandardV1,
}


class SlowScaler:
    """All channels of a stream; `held` are the values [C] of the last tick, with replacements."""

    def __init__(self, name, channels, horizon):
        self.channels = [SLOW_SCALERS[name](horizon) for _ in range(channels)]
        self.unseen = SLOW_SCALERS[name].unseen * channels
        self.held = np.zeros(channels)

    def update(self, x):
        """Add one tick [C]. Returns features, channel by channel within each kind, and scales [H, C]."""
        features, scales = zip(*(c.update(value) for c, value in zip(self.channels, x, strict=True)), strict=True)
        self.held = np.array([c.held[-1] for c in self.channels])
        return np.array(features).T.ravel(), np.array(scales).T
