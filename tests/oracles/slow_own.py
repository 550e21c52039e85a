"""A stream's own readout as simply as possible: float64, one target at a time, its covariance inverted each time.

It gets each tick's regressors, the mixture's forecast, the scaled label and the mean squares of the regressors from
outside.
"""

from __future__ import annotations

import numpy as np

FORGETTING, START, FORGET, FIRST, LARGEST = 0.9995, 0.01, 0.9995, 1e-3, 16.0


class SlowOwn:
    """One stream of K targets."""

    def __init__(self, targets, n):
        self.W, self.labels = np.zeros((targets, n)), np.zeros(targets, int)
        self.regret, self.squares, self.largest = np.zeros(3), np.zeros(3), 0.0
        self.last = np.zeros((targets, n)), np.zeros((3, targets))  # gains; forecasts of each

    @property
    def weights(self):
        share = np.maximum(self.regret, 0) / (self.largest + self.squares + 1e-12) + [FIRST, 0, 0]
        return share / share.sum()

    def label(self, y, known):
        """Learn from the labels of the last tick, y and known [K]."""
        gains, each = self.last
        answer, regrets = self.weights @ each, []
        for k in np.flatnonzero(known):
            self.W[k] += gains[k] * (y[k] - each[1, k])
            self.labels[k] += 1
            regrets.append(2 * (answer[k] - y[k]) * (answer[k] - each[:, k]))
        if regrets:
            r = np.mean(regrets, axis=0)
            self.regret, self.squares = FORGET * self.regret + r, FORGET * self.squares + r * r
            self.largest = max(FORGET * self.largest, (r * r).max())

    def tick(self, z, model, squares):
        """Return the answer [K]. z [K, n]; model [K]; squares [K, n, n] mean squares of the regressors."""
        K, n = z.shape
        own = np.clip((self.W * z).sum(axis=1), -LARGEST, LARGEST)
        gains = np.zeros((K, n))
        for k in range(K):
            past = FORGETTING ** self.labels[k]
            precision = past / START * np.eye(n) + (1 - past) / (1 - FORGETTING) * squares[k]
            size, axes = np.linalg.eigh(precision)
            P = np.linalg.inv(axes @ np.diag(np.maximum(size, 1 / START)) @ axes.T)  # never less sure than at the start
            gains[k] = P @ z[k] / (FORGETTING + z[k] @ P @ z[k])
        self.last = gains, np.stack([np.clip(model, -LARGEST, LARGEST), own, np.zeros(K)])
        return self.weights @ np.stack([model, own, np.zeros(K)])
