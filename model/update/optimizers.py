"""The optimizers by name, and those whose step is a fixed multiple of gradients. Settings are frozen.

`OPTIMIZERS` maps the spec's name to an optimizer; the spec's schedule gives the rate of each step. Tests compare each
optimizer with its plain form in tests/oracles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.parameters import Array
from model.spec import ModelSpec
from model.update.adaptive import Adagrad, Adam, AdamW, RMSprop
from model.update.contract import Optimizer, OptimizerState, zeros


@dataclass(frozen=True, slots=True)
class SGD:
    """Stochastic gradient descent: θ ← θ − rate·∇ (Robbins & Monro 1951)."""

    def init(self, n: int, dtype: type[np.floating[Any]] = np.float32) -> OptimizerState:
        """Return a state without moments."""
        return zeros(0, n, dtype)

    def update(self, params: Array, grad: Array, state: OptimizerState, rate: float) -> None:
        """Take one step in place; `grad` is overwritten with the change added to params."""
        state.step += 1
        grad *= -rate
        params += grad


@dataclass(frozen=True, slots=True)
class Momentum:
    """Heavy ball: v ← μ·v − rate·∇, θ ← θ + v (Polyak 1964; as written by Sutskever et al. 2013, eq. 1–2)."""

    momentum: float = 0.9  # μ

    def init(self, n: int, dtype: type[np.floating[Any]] = np.float32) -> OptimizerState:
        """Return the state with v = 0."""
        return zeros(1, n, dtype)

    def update(self, params: Array, grad: Array, state: OptimizerState, rate: float) -> None:
        """Take one step in place; `grad` is overwritten with the change added to params."""
        state.step += 1
        (v,) = state.moments
        grad *= -rate
        v *= self.momentum
        v += grad
        np.copyto(grad, v)
        params += grad


@dataclass(frozen=True, slots=True)
class Nesterov:
    """Nesterov momentum: v ← μ·v − rate·∇(θ + μ·v), θ ← θ + v (Sutskever et al. 2013, eq. 3–4).

    The stored and served parameters are the look-ahead point φ = θ + μ·v, at which the gradient is computed:
    φ ← φ + μ·v − rate·∇(φ) with the new v. These are the same iterates, written in terms of φ.
    """

    momentum: float = 0.9  # μ

    def init(self, n: int, dtype: type[np.floating[Any]] = np.float32) -> OptimizerState:
        """Return the state with v = 0."""
        return zeros(1, n, dtype)

    def update(self, params: Array, grad: Array, state: OptimizerState, rate: float) -> None:
        """Take one step in place; `grad` is overwritten with the change added to params."""
        state.step += 1
        (v,) = state.moments
        grad *= -rate
        v *= self.momentum
        v += grad
        np.multiply(v, self.momentum, out=state.scratch)
        grad += state.scratch
        params += grad


OPTIMIZERS: dict[str, Callable[[ModelSpec], Optimizer]] = {
    "sgd": lambda spec: SGD(),
    "momentum": lambda spec: Momentum(spec.momentum),
    "nesterov": lambda spec: Nesterov(spec.momentum),
    "adam": lambda spec: Adam(),
    "adamw": lambda spec: AdamW(weight_decay=spec.weight_decay),
    "adagrad": lambda spec: Adagrad(),
    "rmsprop": lambda spec: RMSprop(),
}
