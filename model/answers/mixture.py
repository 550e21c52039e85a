"""The mixture: the network's readout, least squares readouts, seasonal values and persistence, with learned weights.

Every expert is linear in the same regressors, so a convex mixture of them is one matrix, and serving pays one product.
Experts, by name:

- `network`: the readout that learns with the cells by gradient.
- `squares_hidden`: least squares on hidden state, features, recent changes and the season's profile.
- `squares`: the same without hidden state and other channels: fewer weights, so it is good sooner.
- `squares_step`: least squares of each step on the season's values for that step; with a horizon above 1.
- `persistence`, and one seasonal naive per season: nothing to learn.

The weights are those of ML-Poly (Gaillard, Stoltz & van Erven 2014, arXiv:1402.2044, algorithm 1), with forgetting. On
a series without structure all experts are noise around persistence, and so is their mixture. The answer is therefore
the mixture times its trust, the least squares coefficient of the labels on it, in 0..1; persistence gets the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from model.answers.columns import Columns, Regressors
from model.cells.contract import Params
from model.parameters import Array
from model.spec import ModelSpec, season_name

MOST_HIDDEN = 256  # with more hidden units, a covariance of them costs more than the update of the network
MOST_FEATURES = 48  # with more features, a target's readout sees only those of its own channel
FORGET = 0.9995  # of regrets, per update
# Of the sums of the trust, per update, by: horizon is 1. Labels of many steps overlap, so that they are fewer than they
# seem: with 0.999, an hourly load at horizon 24 lost 0.4 %.
FORGET_TRUST = {True: 0.999, False: 0.9998}
BEFORE_TRUST = 1.0  # mean squares of the mixture, in scales, for each step, that speak for full trust at first
TINY_SQUARE = 1e-12
LARGEST_FORECAST = 16.0  # scaled; beyond, a forecast counts as this for the weights


class Product(NamedTuple):
    """The mixture as one readout: p = W·[h; φ; 1] + every·Q + Σ step·S."""

    W: Array  # [O, hidden + E + 1]
    Q: Array  # [H, K, q]
    S: Array  # [H, K, 2·seasons]


class Rows(NamedTuple):
    """Regressors of the readouts, of B rows. The step axis has length 1 where all steps have one origin."""

    known: Array  # [B, H or 1, hidden + E + 1]: [h; φ; 1]
    every: list[Array]  # of each readout of all steps, [B, H or 1, K, n]
    step: Array  # of `squares_step`, [B, H, K, n]


class Mixture:
    """Settings and layout. Parameters `experts.*` are learned by least squares, never by gradient.

    hidden: units of the last layer; features: E; own: for each target, the positions of its own features in φ.
    """

    def __init__(self, spec: ModelSpec, hidden: int, features: int, own: list[list[int]]) -> None:
        self.columns = columns = Columns(spec)
        self.horizon, self.targets = spec.horizon, len(spec.targets)
        self.size = hidden + features
        every, bias = list(range(features)), self.size
        phi = [every if features <= MOST_FEATURES else mine for mine in own]
        # Positions in [h; φ; 1] of the regressors of each target.
        self.bases: dict[str, Array] = {}
        if hidden <= MOST_HIDDEN:
            self.bases["squares_hidden"] = np.array(
                [[*range(hidden), *(hidden + i for i in mine), bias] for mine in phi], np.intp
            )
        self.bases["squares"] = np.array([[*(hidden + i for i in mine), bias] for mine in own], np.intp)
        self.step_base: Array | None = None
        if spec.horizon > 1 and columns.periods:
            self.step_base = np.array([[*(hidden + i for i in mine[1:]), bias] for mine in own], np.intp)
        self.learned = ("network", *self.bases, *(["squares_step"] if self.step_base is not None else []))
        seasons = tuple(f"naive_{season_name(period)}" for period in columns.periods)
        self.names = (*self.learned, "persistence", *seasons)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name and shape of the parameters: readouts, and regret, squares and largest of the weights,
        products and squares of the trust."""
        shapes: dict[str, tuple[int, ...]] = {
            name: (self.targets, base.shape[1] + self.columns.every, self.horizon) for name, base in self.bases.items()
        }
        if self.step_base is not None:
            n = self.columns.step + self.step_base.shape[1]
            shapes["squares_step"] = (self.horizon, self.targets, n)
        return shapes | {"mixing": (3, len(self.names)), "trust": (2,)}

    def weights(self, params: Params) -> Array:
        """Return the weight of each expert in the answer, (experts,), float32; their sum is 1."""
        return self.trusted(params, self.shares(params))

    def trusted(self, params: Params, shares: Array) -> Array:
        """Return the weights of `weights` from the shares, a new array: persistence gets what the mixture does not."""
        product, square = params["trust"]
        before = np.float32(BEFORE_TRUST * self.horizon)
        trust = min(max((product + before) / (square + before), np.float32(0)), np.float32(1))
        weights: Array = trust * shares
        weights[len(self.learned)] += 1 - trust
        return weights

    def shares(self, params: Params) -> Array:
        """Return the share of each expert in the mixture, (experts,), float32. Before the first label: the network's.

        With no positive regret, all are equal.
        """
        regret, squares, largest = params["mixing"]
        share = merits(regret, squares, largest)
        total = share.sum()
        if total > 0:
            out: Array = share / total
            return out
        if largest.any():
            return np.full(len(share), 1 / len(share), np.float32)
        first: Array = np.eye(1, len(share), dtype=np.float32)[0]
        return first

    def mix(self, params: Params, forecasts: Array) -> Array:
        """Return the mixture's forecasts [..] of those of all experts [.., experts]."""
        mixed: Array = forecasts @ self.weights(params)
        return mixed

    def rows(self, h: Array, phi: Array, every: Array, step: Array) -> Rows:
        """Return the regressors of the readouts.

        h [B, H, hidden], phi [B, H, E], every [B, H, K, q]: of each step's origin; H = 1 for one origin of all steps.
        step [B, H, K, 2·seasons].
        """
        known = np.concatenate([h, phi, np.ones((*h.shape[:-1], 1), h.dtype)], axis=-1)
        made = [np.concatenate([known[..., base], every], axis=-1) for base in self.bases.values()]
        own = step
        if self.step_base is not None:
            mine = known[..., self.step_base]
            own = np.concatenate([step, np.broadcast_to(mine, (*step.shape[:-1], mine.shape[-1]))], axis=-1)
        return Rows(known, made, own)

    def fixed(self, step: Array) -> Array:
        """Return the forecasts of the experts that learn nothing, [.., experts]. step: [.., 2·seasons]."""
        return np.concatenate([np.zeros((*step.shape[:-1], 1), step.dtype), step[..., ::2]], axis=-1)

    def forecasts(self, params: Params, network: Array, h: Array, phi: Array, made: Regressors) -> tuple[Array, Rows]:
        """Return the scaled forecasts of all experts of B ticks, [B, H, K, experts], and the readouts' regressors.

        network: p of the network's readout, [B, O]; h: [B, hidden]; phi: [B, E].
        """
        rows = self.rows(h[:, None], phi[:, None], made.every[:, None], made.step)
        return self.of_rows(params, network.reshape(len(h), self.horizon, self.targets), rows, made.step), rows

    def of_rows(self, params: Params, network: Array, rows: Rows, step: Array) -> Array:
        """Return the scaled forecasts of all experts, [B, H, K, experts], from regressors.

        network: [B, H, K]; step: [B, H, K, 2·seasons].
        """
        out = [network]
        for name, z in zip(self.bases, rows.every, strict=True):
            W = params[name]
            if z.shape[1] == 1:
                out.append(np.matmul(z[:, 0].transpose(1, 0, 2), W).transpose(1, 2, 0))  # [K, B, n] · [K, n, H]
            else:
                out.append(np.einsum("bhkn,knh->bhk", z, W))
        if self.step_base is not None:
            out.append(np.einsum("bhkn,hkn->bhk", rows.step, params["squares_step"]))
        return np.concatenate([np.stack(out, axis=-1), self.fixed(step)], axis=-1)

    def product(self, params: Params, head: Array) -> Product:
        """Return the mixture as one readout, float64. head: the network's W [O, hidden + E + 1]."""
        H, K = self.horizon, self.targets
        weight = dict(zip(self.names, self.weights(params).astype(np.float64), strict=True))
        W = weight["network"] * head.astype(np.float64).reshape(H, K, -1)
        Q, S = np.zeros((H, K, self.columns.every)), np.zeros((H, K, self.columns.step))
        for name, base in self.bases.items():
            readout = weight[name] * params[name].astype(np.float64).transpose(2, 0, 1)  # [H, K, n]
            n = base.shape[1]
            for k in range(K):
                W[:, k, base[k]] += readout[:, k, :n]
            Q += readout[..., n:]
        if self.step_base is not None:
            readout = weight["squares_step"] * params["squares_step"].astype(np.float64)
            S += readout[..., : self.columns.step]
            for k in range(K):
                W[:, k, self.step_base[k]] += readout[:, k, self.columns.step :]
        for season, period in enumerate(self.columns.periods):
            S[..., 2 * season] += weight[f"naive_{season_name(period)}"]
        return Product(W.reshape(H * K, -1), Q, S)


def merits(regret: Array, squares: Array, largest: Array) -> Array:
    """Return what the weights of experts are proportional to, [.., experts], of ML-Poly's state."""
    merit: Array = np.maximum(regret, 0) / (largest + squares + np.float32(TINY_SQUARE))
    return merit


def follow(mixing: Array, trust: Array, forget: float, given: Array, mixed: Array, y: Array, known: Array) -> None:
    """Update the state of weights and trust with labels and forecasts as they were given.

    mixing [3, experts], trust [2]: float32, modified; forget: factor of the trust's
    sums; given: [n, experts] forecasts; mixed: [n] the mixture's, before
    its trust; y: [n] labels; known: bool [n].
    """
    if not known.any():
        return
    given, mixed, y = (part[known].astype(np.float64) for part in (given, mixed, y))
    gained = (2 * (mixed - y)[:, None] * (mixed[:, None] - given)).mean(axis=0)
    regret, squares, largest = mixing.astype(np.float64)
    mixing[0] = FORGET * regret + gained
    mixing[1] = FORGET * squares + gained**2
    mixing[2] = np.maximum(FORGET * largest, (gained**2).max())
    trust[...] = forget * trust.astype(np.float64) + ((mixed * y).mean(), (mixed * mixed).mean())
