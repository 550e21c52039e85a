"""Publish or veto (DESIGN R11): a one-sided sequential test for "worse than the anchor".

Scores are clipped losses in 0..1; d = candidate − anchor on the same labels. For a bet λ the wealth
M ← max(M, 1)·(1 + λ·d) grows only while the candidate is worse. The mean over a few λ is an e-detector (Shin, Ramdas,
Rinaldo 2022, arXiv:2203.03532, CUSUM form): as long as E[d] ≤ 0, false alarms lie at least 1/α scores apart on average,
and one comes within n scores with probability at most n·α, however often one looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

BETS = (0.25, 0.5, 0.9)
LARGEST = 1e300  # limit of the evidence; stands for a number of a verdict that is not finite
COOLING_DOWN = "cooling down after a rollback"  # the reason of a veto that is not about the candidate


@dataclass(frozen=True, slots=True)
class GateSettings:
    """When a candidate counts as worse, and when a version becomes the anchor."""

    worse_evidence: float = 1e4  # 1/α
    anchor_labels: int = 512  # scored labels that the serving line must hold before its version becomes the anchor
    # … and scores: the labels of one update are one score, however many, and a few scores do not suffice for the test.
    anchor_scores: int = 512
    score_every: int = 4  # chunks; anchor scoring costs about a third of an update
    cool_down_labels: int = 256  # learned after a rollback before anything is published
    max_movement: float = 4.0  # ‖Δw‖ / ‖w‖ between two versions; at the default rates 0.38 in the first 500 updates


@dataclass(slots=True)
class Gate:
    """Evidence against the candidate, and the version that may become the anchor. A fold over scored labels."""

    settings: GateSettings = field(default_factory=GateSettings)
    wealth: list[float] = field(default_factory=lambda: [1.0] * len(BETS))
    anchor: int = 1
    contender: int = 0  # first version put into service after the anchor was chosen; 0: none
    contender_scored: int = 0  # labels
    contender_scores: int = 0
    cooling: int = 0  # labels left of a cool-down

    @property
    def evidence(self) -> float:
        """Mean wealth: about 1 while the candidate is not worse."""
        return sum(self.wealth) / len(self.wealth)

    @property
    def worse(self) -> bool:
        """Whether the candidate counts as worse than the anchor."""
        return self.evidence >= self.settings.worse_evidence

    def scored(self, candidate: float, anchor: float, labels: int) -> None:
        """Add mean scores (0..1) of `labels` labels. A candidate score that is not finite counts as 1."""
        candidate = candidate if math.isfinite(candidate) else 1.0
        d = (candidate - anchor) if math.isfinite(anchor) else 0.0
        self.wealth = [min(max(m, 1.0) * (1 + bet * d), LARGEST) for m, bet in zip(self.wealth, BETS, strict=True)]
        if self.contender:
            self.contender_scored += labels
            self.contender_scores += 1

    def learned(self, labels: int) -> None:
        """Count labels learned, scored or not: they end a cool-down."""
        self.cooling = max(0, self.cooling - labels)

    def swapped(self, version: int) -> None:
        """Note a version in service: the first after the anchor becomes the contender."""
        if not self.contender and version > self.anchor:
            self._contend(version)

    def promote_contender(self) -> int:
        """Make the contender the anchor if it has proved itself; returns its number, else 0.

        A contender has proved itself when the versions from it on have served `anchor_labels` scored labels in
        `anchor_scores` scores, and the evidence against them is below the square root of what vetoes. A contender with
        as many labels and more evidence is dropped. (Each version serves for a fraction of a second, so the test covers
        the line of versions that starts with the contender.)
        """
        settings = self.settings
        held = self.contender_scored >= settings.anchor_labels and self.contender_scores >= settings.anchor_scores
        if not self.contender or not held:
            return 0
        proved = self.evidence < math.sqrt(self.settings.worse_evidence)
        version = self.contender
        self._contend(0)
        if not proved:
            return 0
        self.anchor = version
        self.wealth = [1.0] * len(BETS)
        return version

    def promoted(self, version: int) -> None:
        """Note a promotion: `version` is the anchor, and a cool-down ends."""
        self.anchor = version
        self._contend(0)
        self.wealth = [1.0] * len(BETS)
        self.cooling = 0

    def rolled_back(self, version: int) -> None:
        """Note a rollback: `version` is the anchor, and a cool-down begins."""
        self.promoted(version)
        self.cooling = self.settings.cool_down_labels

    def _contend(self, version: int) -> None:
        self.contender, self.contender_scored, self.contender_scores = version, 0, 0

    def pack(self) -> dict[str, object]:
        """Return what a checkpoint stores: the constructor's arguments besides the settings."""
        return {
            "wealth": self.wealth,
            "anchor": self.anchor,
            "contender": self.contender,
            "contender_scored": self.contender_scored,
            "contender_scores": self.contender_scores,
            "cooling": self.cooling,
        }
