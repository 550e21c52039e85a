"""Drift: the loss has risen for good, by Page and Hinkley's test, and what the spec wants done then.

Part of the learner's fold: it reads scores of labels in their order, and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BLOCK_LABELS = 32  # one value of the test is the mean of so many labels' scores: less of their autocorrelation is left
WARM_BLOCKS = 30  # from which mean and deviation are known before anything is called drift; also after each drift
TOLERATED = 0.5  # δ: a rise by so many deviations of a block is no drift
THRESHOLD = 15.0  # λ, in the same deviations
MEMORY_BLOCKS = 512  # mean and deviation are of about so many: those of a model that had still to learn are forgotten
LARGEST = 4.0  # a block counts for at most so many: one bad hour is no drift
BEYOND_BLOCKS = 3  # the test must stay beyond λ for so many blocks in a row


@dataclass(slots=True)
class Drift:
    """The test's state, and that of the reaction. JSON can hold its fields.

    With z the block's score in deviations from the running mean of the blocks before it, `excess` is m − min m of
    m = Σ (z − δ), compared with λ (Page 1954, Biometrika 41; Hinkley 1971, Biometrika 58).
    """

    labels: int = 0  # of the block that is not full yet
    total: float = 0.0  # of its scores
    blocks: int = 0
    mean: float = 0.0  # of blocks
    squares: float = 0.0  # of their deviations from it, summed (Welford)
    excess: float = 0.0
    beyond: int = 0  # blocks in a row at which excess was above λ
    raised: int = 0  # labels for which the rate is still raised
    returning: bool = False  # to the anchor, which is not yet done

    def take(self, score: float, labels: int) -> dict[str, float]:
        """Take in the mean score (0 best .. 1; not finite counts as 1) of `labels` labels, made before learning them.

        Returns the numbers of a drift where one is found: the test then begins anew. Else nothing.
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
            self.begin_again()
            return numbers
        self.blocks += 1
        step = value - self.mean
        self.mean += step / min(self.blocks, MEMORY_BLOCKS)
        self.squares *= 1.0 if self.blocks <= MEMORY_BLOCKS else 1 - 1 / MEMORY_BLOCKS
        self.squares += step * (value - self.mean)
        return {}

    def begin_again(self) -> None:
        """Know nothing of the scores so far; a reaction that is under way goes on."""
        self.labels, self.total, self.blocks, self.mean, self.squares = 0, 0.0, 0, 0.0, 0.0
        self.excess, self.beyond = 0.0, 0
