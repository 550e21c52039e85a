"""Optimizers line by line as in their papers: references for the fast implementations.

`OPTIMIZERS[name](spec, shape)` has `update(params, grad, rate)`, which changes params in place. All arrays are float64.
`SCHEDULES[name](spec, k)` is the rate of update k, counted from 1 as in the papers.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np


class PlainSGD:
    def __init__(self, spec, shape):
        pass

    def update(self, params, grad, rate):
        params -= rate * grad


class PlainMomentum:
    """x_{k+1} = x_k − α ∇f(x_k) + β (x_k − x_{k−1}): Polyak 1964, without a velocity."""

    def __init__(self, spec, shape):
        self.beta, self.before = spec.momentum, None

    def update(self, params, grad, rate):
        now = params.copy()
        change = 0 if self.before is None else now - self.before
        params[...] = now - rate * grad + self.beta * change
        self.before = now


class PlainNesterov:
    """Sutskever et al. 2013, eq. 3–4. Keeps θ; params are θ + μ·v, the point of the gradient."""

    def __init__(self, spec, shape):
        self.mu, self.theta, self.v = spec.momentum, None, np.zeros(shape)

    def update(self, params, grad, rate):
        if self.theta is None:
            self.theta = params.copy()
        self.v = self.mu * self.v - rate * grad
        self.theta = self.theta + self.v
        params[...] = self.theta + self.mu * self.v


class PlainAdam:
    """Algorithm 1 of Kingma & Ba (arXiv:1412.6980)."""

    def __init__(self, spec, shape):
        self.t, self.m, self.v = 0, np.zeros(shape), np.zeros(shape)

    def update(self, params, grad, rate):
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * grad
        self.v = 0.999 * self.v + 0.001 * grad**2
        m_hat = self.m / (1 - 0.9**self.t)
        v_hat = self.v / (1 - 0.999**self.t)
        params -= rate * m_hat / (np.sqrt(v_hat) + 1e-8)


class PlainAdamW:
    """Algorithm 2 of Loshchilov & Hutter (arXiv:1711.05101), η·α = rate and λ = α·weight_decay."""

    def __init__(self, spec, shape):
        self.adam, self.weight_decay = PlainAdam(spec, shape), spec.weight_decay

    def update(self, params, grad, rate):
        decay = rate * self.weight_decay * params
        self.adam.update(params, grad, rate)
        params -= decay


class PlainAdagrad:
    """Duchi et al. 2011, Figure 1, diagonal, without a regularizer."""

    def __init__(self, spec, shape):
        self.squares = np.zeros(shape)

    def update(self, params, grad, rate):
        self.squares = self.squares + grad**2
        params -= rate * grad / (np.sqrt(self.squares) + 1e-8)


class PlainRMSprop:
    """Tieleman & Hinton 2012, lecture 6.5: MeanSquare(w, t) = 0.9 MeanSquare(w, t−1) + 0.1 (∂E/∂w)²."""

    def __init__(self, spec, shape):
        self.mean_square = np.zeros(shape)

    def update(self, params, grad, rate):
        self.mean_square = 0.9 * self.mean_square + 0.1 * grad**2
        params -= rate * grad / (np.sqrt(self.mean_square) + 1e-8)


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": PlainSGD, "momentum": PlainMomentum, "nesterov": PlainNesterov, "adam": PlainAdam, "adamw": PlainAdamW,
    "adagrad": PlainAdagrad, "rmsprop": PlainRMSprop,
}  # fmt: skip


def constant(spec, k):
    return spec.learning_rate * (k / spec.warmup if k < spec.warmup else 1)


def cosine(spec, k):
    """η_min + ½(η_max − η_min)(1 + cos(π·T_cur/T_i)): arXiv:1608.03983, eq. 5."""
    if k <= spec.warmup:
        return constant(spec, k)
    high, low, gone = spec.learning_rate, spec.learning_rate / 10, k - 1 - spec.warmup
    if gone >= spec.schedule_updates:
        return low
    return low + (high - low) / 2 * (1 + math.cos(math.pi * gone / spec.schedule_updates))


def inverse_sqrt(spec, k):
    """min(k^−½, k·warmup^−1½): arXiv:1706.03762, eq. 3, scaled so that its peak is learning_rate."""
    w = spec.warmup
    if w:
        return spec.learning_rate * math.sqrt(w) * min(k**-0.5, k * w**-1.5)
    return spec.learning_rate / math.sqrt(1 + 99 * (k - 1) / spec.schedule_updates)


SCHEDULES = {"constant": constant, "cosine": cosine, "inverse_sqrt": inverse_sqrt}
