"""Facts of a model in words, the same in every command."""

from __future__ import annotations

from freshet import Model


def learning(model: Model) -> str:
    """Return whether a model learns, in one word."""
    return "paused" if model.paused else "yes" if model.spec.learn else "never"
