"""Optimizers whose step of each parameter depends on the squares of its gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.parameters import Array
from model.update.contract import OptimizerState, zeros


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
        return zeros(2, n, dtype)

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


def _step_by_root(params: Array, grad: Array, s: Array, scratch: Array, rate: float, eps: float) -> None:
    """Overwrite `grad` with −rate·∇/(√s + eps) and add it to params; scratch is overwritten. All (n,)."""
    np.sqrt(s, out=scratch)
    scratch += eps
    grad /= scratch
    grad *= -rate
    params += grad


@dataclass(frozen=True, slots=True)
class Adagrad:
    """Adagrad: s ← s + ∇², θ ← θ − rate·∇/(√s + eps): the rate of a parameter falls with all its gradients so far.

    Source: Duchi, Hazan & Singer 2011 (JMLR 12), Figure 1, the diagonal form without a regularizer. Their δ is eps.
    """

    eps: float = 1e-8

    def init(self, n: int, dtype: type[np.floating[Any]] = np.float32) -> OptimizerState:
        """Return the state with s = 0."""
        return zeros(1, n, dtype)

    def update(self, params: Array, grad: Array, state: OptimizerState, rate: float) -> None:
        """Take one step in place; `grad` is overwritten with the change added to params."""
        state.step += 1
        (s,), scratch = state.moments, state.scratch
        np.multiply(grad, grad, out=scratch)
        s += scratch
        _step_by_root(params, grad, s, scratch, rate, self.eps)


@dataclass(frozen=True, slots=True)
class RMSprop:
    """RMSprop: s ← ρ·s + (1 − ρ)·∇², θ ← θ − rate·∇/(√s + eps).

    Source: Tieleman & Hinton 2012, lecture 6.5 of Neural Networks for Machine Learning, with their ρ = 0.9. As in the
    lecture, s starts at 0 and is not corrected: the first steps are up to 1/√(1 − ρ) = 3.2 times the rate.
    """

    rho: float = 0.9  # ρ
    eps: float = 1e-8

    def init(self, n: int, dtype: type[np.floating[Any]] = np.float32) -> OptimizerState:
        """Return the state with s = 0."""
        return zeros(1, n, dtype)

    def update(self, params: Array, grad: Array, state: OptimizerState, rate: float) -> None:
        """Take one step in place; `grad` is overwritten with the change added to params."""
        state.step += 1
        (s,), scratch = state.moments, state.scratch
        np.multiply(grad, grad, out=scratch)
        scratch *= 1 - self.rho
        s *= self.rho
        s += scratch
        _step_by_root(params, grad, s, scratch, rate, self.eps)
