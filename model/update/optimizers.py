"""Optimizers on the flat parameter vector. Settings are frozen, state is explicit data that a checkpoint stores.

A registry entry makes the optimizer that a spec asks for; the rate comes with each step, from the spec's schedule.
Each is held to its plain form in tests/oracles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from model.parameters import Array
from model.spec import ModelSpec


@dataclass(slots=True)
class OptimizerState:
    """What an optimizer remembers: the step count, its moments as rows of one array, and scratch that nothing reads."""

    step: int
    moments: Array  # [moments, n], same dtype as the parameters; an optimizer may have no moment
    scratch: Array  # [n]


class Optimizer(Protocol):
    """Contract: `update` changes params and state in place and reads nothing else."""

    def init(self, n: int, dtype: type[np.floating[Any]] = np.float32) -> OptimizerState:
        """The state before the first step, for n parameters."""
        ...

    def update(self, params: Array, grad: Array, state: OptimizerState, rate: float) -> None:
        """One step of size `rate`. params: (n,), modified; grad: (n,), overwritten with the step taken."""
        ...


def update_parts(
    optimizer: Optimizer, parts: Iterable[slice], params: Array, grad: Array, state: OptimizerState, rate: float
) -> None:
    """`Optimizer.update` of these parts of the vectors alone; nothing outside them is read or written."""
    for part in parts:
        seen = OptimizerState(state.step, state.moments[:, part], state.scratch[part])
        optimizer.update(params[part], grad[part], seen, rate)
    state.step += 1


def _zeros(moments: int, n: int, dtype: type[np.floating[Any]]) -> OptimizerState:
    return OptimizerState(0, np.zeros((moments, n), dtype), np.empty(n, dtype))


@dataclass(frozen=True, slots=True)
class SGD:
    """θ ← θ − rate·∇: gradient descent, stochastic because the gradient is of a sample (Robbins & Monro 1951)."""

    def init(self, n: int, dtype: type[np.floating[Any]] = np.float32) -> OptimizerState:
        """No moments."""
        return _zeros(0, n, dtype)

    def update(self, params: Array, grad: Array, state: OptimizerState, rate: float) -> None:
        """One step in place; `grad` ends as the change that was added to params."""
        state.step += 1
        grad *= -rate
        params += grad


@dataclass(frozen=True, slots=True)
class Momentum:
    """Heavy ball: v ← μ·v − rate·∇, θ ← θ + v (Polyak 1964; as written by Sutskever et al. 2013, eq. 1–2)."""

    momentum: float = 0.9  # μ

    def init(self, n: int, dtype: type[np.floating[Any]] = np.float32) -> OptimizerState:
        """v = 0."""
        return _zeros(1, n, dtype)

    def update(self, params: Array, grad: Array, state: OptimizerState, rate: float) -> None:
        """One step in place; `grad` ends as the change that was added to params."""
        state.step += 1
        (v,) = state.moments
        grad *= -rate
        v *= self.momentum
        v += grad
        np.copyto(grad, v)
        params += grad


@dataclass(frozen=True, slots=True)
class Nesterov:
    """v ← μ·v − rate·∇(θ + μ·v), θ ← θ + v (Sutskever et al. 2013, eq. 3–4).

    The parameters held, and served, are the look-ahead point φ = θ + μ·v, where the gradient is taken:
    φ ← φ + μ·v − rate·∇(φ) with the new v. The same iterates, written in what is stored.
    """

    momentum: float = 0.9  # μ

    def init(self, n: int, dtype: type[np.floating[Any]] = np.float32) -> OptimizerState:
        """v = 0."""
        return _zeros(1, n, dtype)

    def update(self, params: Array, grad: Array, state: OptimizerState, rate: float) -> None:
        """One step in place; `grad` ends as the change that was added to params."""
        state.step += 1
        (v,) = state.moments
        grad *= -rate
        v *= self.momentum
        v += grad
        np.multiply(v, self.momentum, out=state.scratch)
        grad += state.scratch
        params += grad


@dataclass(frozen=True, slots=True)
class Adam:
    """Adam, Algorithm 1 of Kingma & Ba (arXiv:1412.6980), with their symbols.

    Moments are stored unscaled (m/(1−β₁), v/(1−β₂)) and all bias corrections are folded into two scalars: two passes
    over the vector fewer than as written there.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8  # outside the square root, as in the paper

    def init(self, n: int, dtype: type[np.floating[Any]] = np.float32) -> OptimizerState:
        """m = v = 0."""
        return _zeros(2, n, dtype)

    def update(self, params: Array, grad: Array, state: OptimizerState, rate: float) -> None:
        """One step in place; `grad` ends as the change that was added to params."""
        self._step(grad, state, rate)
        params += grad

    def _step(self, grad: Array, state: OptimizerState, rate: float) -> None:
        """Take the gradient in, and leave the step in its place."""
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
        grad *= -rate * (1 - self.beta1) / (1 - self.beta1**state.step) / scale


@dataclass(frozen=True, slots=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: the step also takes rate·weight_decay of the weights, past the moments.

    Source: Loshchilov & Hutter, arXiv:1711.05101, Algorithm 2, where η·α is our rate and λ is α·weight_decay, as
    in most libraries: a schedule then carries the decay along.
    """

    weight_decay: float = 0.01

    def update(self, params: Array, grad: Array, state: OptimizerState, rate: float) -> None:
        """One step in place; `grad` ends as the change that was added to params."""
        self._step(grad, state, rate)
        np.multiply(params, rate * self.weight_decay, out=state.scratch)
        grad -= state.scratch
        params += grad


OPTIMIZERS: dict[str, Callable[[ModelSpec], Optimizer]] = {
    "sgd": lambda spec: SGD(),
    "momentum": lambda spec: Momentum(spec.momentum),
    "nesterov": lambda spec: Nesterov(spec.momentum),
    "adam": lambda spec: Adam(),
    "adamw": lambda spec: AdamW(weight_decay=spec.weight_decay),
}
