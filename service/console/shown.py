"""Facts of a model in words, the same in every command."""

from __future__ import annotations

from collections.abc import Mapping

from freshet import Model


def learning(model: Model) -> str:
    """Return whether a model learns, in one word."""
    return "paused" if model.paused else "yes" if model.spec.learn else "never"


def shares(mixture: Mapping[str, float]) -> str:
    """Return the weights of the experts as text, largest first."""
    ranked = sorted(mixture.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {weight:.2f}".replace(" 0.", " .") for name, weight in ranked)
