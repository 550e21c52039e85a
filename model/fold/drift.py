"""Drift detection: the Page–Hinkley test for a lasting rise of the loss, and the state of the spec's reaction.

Part of the learner's fold: it reads only scores of labels, in their order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BLOCK_LABELS = 32  # labels per value of the test, their mean score: averaging removes most autocorrelation
WARM_BLOCKS = 30  # blocks needed to estimate mean and deviation before the test runs, at the start and after a drift
TOLERATED = 0.5  # δ, in deviations of a block: a rise by this much is no drift
THRESHOLD = 15.0  # λ, in deviations of a block
MEMORY_BLOCKS = 512  # memory of mean and deviation, so that they forget the time before the model had learned
LARGEST = 4.0  # deviations that one block counts for at most: one bad hour is no drift
BEYOND_BLOCKS = 3  # consecutive blocks for which the test must exceed λ


@dataclass(slots=True)
class Drift:
    """State of the test and of the reaction. All fields fit JSON.

    z is a block's score in deviations from the running mean of the blocks before it. `excess` is m − min m of
    m = Σ (z − δ), and is compared with λ (Page 1954, Biometrika 41; Hinkley 1971, Biometrika 58).
    """

    labels: int = 0  # in the current, incomplete block
    total: float = 0.0  # sum of its scores
    blocks: int = 0
    mean: float = 0.0  # of the blocks' scores
    squares: float = 0.0  # sum of squared deviations from the mean (Welford)
    excess: float = 0.0
    beyond: int = 0  # consecutive blocks with excess above λ
    raised: int = 0  # labels for which the learning rate is still raised
    returning: bool = False  # a rollback to the anchor is requested and not done yet

    def add(self, score: float, labels: int) -> dict[str, float]:
        """Add the prequential mean score (0 best .. 1; not finite counts as 1) of `labels` labels.

        Returns the numbers of a drift if one is detected, and restarts the test; otherwise an empty dict.
        """
        self.total += labels * (score if math.isfinite(score) else 1.0)
        self.labels += labels
        if self.labels < BLOCK_LABELS:
            return {}
        value, self.total, self.labels = self.total / self.labels, 0.0, 0
        if self.blocks >= WARM_BLOCKS:
            deviation = math.sqrt(self.squares / (min(self.blocks, MEMORY_BLOCKS) - 1))
            z = min((value - self.mean) / max(deviation, 1e-9), LARGEST)
            self.excess = max(0.0, self.excess + z - TOLERATED)
            self.beyond = self.beyond + 1 if self.excess > THRESHOLD else 0
        if self.beyond >= BEYOND_BLOCKS:
            numbers = {"excess": self.excess, "score": value, "mean_score": self.mean, "blocks": float(self.blocks)}
            self.restart()
            return numbers
        self.blocks += 1
        step = value - self.mean
        self.mean += step / min(self.blocks, MEMORY_BLOCKS)
        self.squares *= 1.0 if self.blocks <= MEMORY_BLOCKS else 1 - 1 / MEMORY_BLOCKS
        self.squares += step * (value - self.mean)
        return {}

    def restart(self) -> None:
        """Forget all scores so far; a reaction in progress continues."""
        self.labels, self.total, self.blocks, self.mean, self.squares = 0, 0.0, 0, 0.0, 0.0
        self.excess, self.beyond = 0.0, 0
