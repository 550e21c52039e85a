"""Optimizers on the flat parameter vector. Settings are frozen; state is explicit data that a checkpoint stores.

`OPTIMIZERS` maps the spec's name to an optimizer; the spec's schedule gives the rate of each step. Tests compare each
optimizer with its plain form in tests/oracles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from model.parameters import Array
from model.spec import ModelSpec

SETTLE_EVERY = 64  # updates between two `settle`
# Room above the smallest normal number: more than a moment shrinks in SETTLE_EVERY updates without a gradient.
ROOM = 2.0**16


@dataclass(slots=True)
class OptimizerState:
    """State of an optimizer: the step count, the moments as rows of one array, and scratch that no step reads."""

    step: int
    moments: Array  # [moments, n], same dtype as the parameters; [0, n] for an optimizer without moments
    scratch: Array  # [n]


class Optimizer(Protocol):
    """Contract: `update` modifies params and state in place and reads nothing else."""

    def init(self, n: int, dtype: type[np.floating[Any]] = np.float32) -> OptimizerState:
        """Return the state before the first step, for n parameters."""
        ...

    def update(self, params: Array, grad: Array, state: OptimizerState, rate: float) -> None:
        """Take one step at learning rate `rate`. params: (n,), modified; grad: (n,), overwritten with the step."""
        ...


def update_parts(
    optimizer: Optimizer, parts: Iterable[slice], params: Array, grad: Array, state: OptimizerState, rate: float
) -> None:
    """Take one step of `Optimizer.update` on these parts of the vectors; nothing outside them is read or written."""
    for part in parts:
        seen = OptimizerState(state.step, state.moments[:, part], state.scratch[part])
        optimizer.update(params[part], grad[part], seen, rate)
    state.step += 1
    if state.step % SETTLE_EVERY == 0:
        settle(state.moments)


def settle(moments: Array) -> None:
    """Set moments that are about to become subnormal to 0, in place.

    A moment whose gradient stays 0 shrinks by a factor per update, and rounding would stop it at a subnormal number,
    with which some processors compute many times slower. It is then too small to move a weight: next to `eps` even the
    root of a second moment is less than half a unit of the last place.
    """
    moments[np.abs(moments) < ROOM * np.finfo(moments.dtype).tiny] = 0


def _zeros(moments: int, n: int, dtype: type[np.floating[Any]]) -> OptimizerState:
    return OptimizerState(0, np.zeros((moments, n), dtype), np.empty(n, dtype))


@dataclass(frozen=True, slots=True)
class SGD:
    """Stochastic gradient descent: θ ← θ − rate·∇ (Robbins & Monro 1951)."""

    def init(self, n: int, dtype: type[np.floating[Any]] = np.float32) -> OptimizerState:
        """Return a state without moments."""
        return _zeros(0, n, dtype)

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
        return _zeros(1, n, dtype)

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
        return _zeros(1, n, dtype)

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


@dataclass(frozen=True, slots=True)
class Adam:
    """Adam (Kingma & Ba, arXiv:1412.6980, Algorithm 1), with the paper's symbols.

    Moments are stored unscaled (m/(1−β₁), v/(1−β₂)) and all bias corrections are folded into two scalars, which saves
    two passes over the vector.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8  # outside the square root, as in the paper

    def init(self, n: int, dtype: type[np.floating[Any]] = np.float32) -> OptimizerState:
        """Return the state with m = v = 0."""
        return _zeros(2, n, dtype)

    def update(self, params: Array, grad: Array, state: OptimizerState, rate: float) -> None:
        """Take one step in place; `grad` is overwritten with the change added to params."""
        self._step(grad, state, rate)
        params += grad

    def _step(self, grad: Array, state: OptimizerState, rate: float) -> None:
        """Update the moments with `grad` and overwrite it with the step."""
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
    """Adam with decoupled weight decay: each step also subtracts rate·weight_decay·θ, which the moments do not see.

    Source: Loshchilov & Hutter, arXiv:1711.05101, Algorithm 2, with rate = η·α and λ = α·weight_decay, as in most
    libraries: a schedule then scales the decay too.
    """

    weight_decay: float = 0.01

    def update(self, params: Array, grad: Array, state: OptimizerState, rate: float) -> None:
        """Take one step in place; `grad` is overwritten with the change added to params."""
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
