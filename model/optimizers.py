"""Optimizers on the flat parameter vector. Settings are frozen, state is explicit data that a checkpoint stores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from model.cell import Array


@dataclass(slots=True)
class OptimizerState:
    """What an optimizer remembers: the step count, its moments as rows of one array, and scratch that nothing reads."""

    step: int
    moments: Array  # [moments, n], same dtype as the parameters
    scratch: Array  # [n]


class Optimizer(Protocol):
    """Contract: `update` changes params and state in place and reads nothing else."""

    @property
    def learning_rate(self) -> float:
        """Step size."""
        ...

    def init(self, n: int, dtype: type[np.floating[Any]] = np.float32) -> OptimizerState:
        """The state before the first step, for n parameters."""
        ...

    def update(self, params: Array, grad: Array, state: OptimizerState) -> None:
        """One step. params: (n,), modified; grad: (n,), overwritten with the step taken; state advances."""
        ...


@dataclass(frozen=True, slots=True)
class Adam:
    """Adam, Algorithm 1 of Kingma & Ba (arXiv:1412.6980), with their symbols.

    Moments are stored unscaled (m/(1−β₁), v/(1−β₂)) and all bias corrections are folded into two scalars: two passes
    over the vector fewer than as written there. Compared with the plain form in tests/oracles.
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8  # outside the square root, as in the paper

    def init(self, n: int, dtype: type[np.floating[Any]] = np.float32) -> OptimizerState:
        """Zero moments."""
        return OptimizerState(0, np.zeros((2, n), dtype), np.empty(n, dtype))

    def update(self, params: Array, grad: Array, state: OptimizerState) -> None:
        """One step in place; `grad` ends as the change that was added to params."""
        state.step += 1
        (m, v), scratch = state.moments, state.scratch
        m *= self.beta1
        m += grad
        v *= self.beta2
        np.multiply(grad, grad, out=grad)
        v += grad
        # m̂ = m·(1−β₁)/(1−β₁ᵗ), √v̂ = √v·√((1−β₂)/(1−β₂ᵗ))
        scale = math.sqrt((1 - self.beta2) / (1 - self.beta2**state.step))
        np.sqrt(v, out=scratch)
        scratch += self.eps / scale
        np.divide(m, scratch, out=grad)
        grad *= -self.learning_rate * (1 - self.beta1) / (1 - self.beta1**state.step) / scale
        params += grad


OPTIMIZERS: dict[str, Callable[[float], Optimizer]] = {"adam": Adam}
