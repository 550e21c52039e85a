"""The residual scaler by its definition, in float64 and over the whole past: weighted sums, nothing incremental."""

import numpy as np

ALPHA, WARM, FLOOR = 0.002, 50, 1e-3


def running_weights(n):
    """[n]: how much each of n values counts in a running mean of rate max(1/k, α) at the k-th: they sum to 1."""
    rates = np.maximum(1 / np.arange(1, n + 1), ALPHA)
    return rates * np.append(np.cumprod((1 - rates)[:0:-1])[::-1], 1.0)


class SlowScaler:
    """`update(x)` takes one tick [C] in and returns u [C], l [C] and the scales [H, C] of LEARNING.md's recipe."""

    def __init__(self, channels, horizon):
        self.values, self.horizon = [], horizon
        self.squares = [[] for _ in range(horizon)]  # squared h-step differences, each capped when it came

    def update(self, x):
        before = running_weights(len(self.values)) @ np.array(self.values) if self.values else x
        self.values.append(np.array(x, np.float64))
        values, n = np.array(self.values), len(self.values)
        weights = running_weights(n)
        sigma = np.sqrt(weights @ (values - weights @ values) ** 2)
        scale = np.zeros((self.horizon, len(x)))
        for h in range(1, min(self.horizon, n - 1) + 1):
            square, squares = (values[-1] - values[-1 - h]) ** 2, self.squares[h - 1]
            if len(squares) >= WARM:
                running = running_weights(len(squares)) @ np.array(squares)
                square = np.minimum(square, 25 * (np.sqrt(running) + FLOOR * sigma) ** 2)
            squares.append(square)
            scale[h - 1] = np.sqrt(running_weights(len(squares)) @ np.array(squares)) + FLOOR * sigma
        if n == 1:
            return np.zeros_like(x), np.zeros_like(x), scale
        moved, spread = np.where(scale[0] > 0, scale[0], 1), np.where(sigma > 0, sigma, 1)
        return np.clip((x - values[-2]) / moved, -6, 6), np.clip((x - before) / spread, -4, 4), scale
