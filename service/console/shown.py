"""Facts of a model as words, the same in every command."""

from __future__ import annotations

from freshet import Model


def learning(model: Model) -> str:
    """Whether a model learns."""
    return "paused" if model.paused else "yes" if model.spec.learn else "never"
