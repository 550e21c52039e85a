"""Losses that forecast a spread: quantiles, a normal and a Student's t distribution.

Each output has M columns in the readout's p [.., M·O], in blocks of O: first the location (the forecast), then raw
values that `positive` turns into sizes in scaled units. A zero readout is persistence with the quantiles of a standard
normal distribution, or a scale of 1: a scaled unit is the running size of the changes that persistence forecasts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from model.answers.student import quantile
from model.bounds import clip
from model.parameters import Array

# Of a forecast size, in scaled units. The lower one bounds what one absurd label costs: labels are within 8.
SMALLEST, LARGEST = 0.01, 64.0


def offset(start: float) -> float:
    """Return what is added to a raw value, so that raw = 0 gives the size `start`, or the least above SMALLEST."""
    return inverse_softplus(max(start - SMALLEST, 1e-3))


def inverse_softplus(size: float) -> float:
    """Return x with log(1 + exp(x)) = size > 0."""
    return size + math.log(-math.expm1(-size))


def positive(raw: Array, start: Array) -> tuple[Array, Array]:
    """Return sizes SMALLEST + softplus(raw + start), and their derivative, new arrays of the shape of raw.

    The argument of softplus is kept within ±LARGEST, where the derivative is that of the bound, so that a size beyond
    it can return.
    """
    exp = np.exp(clip(raw + start.astype(raw.dtype), -LARGEST, LARGEST))
    size: Array = np.log1p(exp)
    size += SMALLEST
    exp /= 1 + exp
    return size, exp


def rescale(W: Array, start: Sequence[float], growth: Array) -> None:
    """Multiply the sizes of readout rows W [blocks·O, n + 1], modified, by `growth` [O]; start: of each block.

    Softplus of a linear form cannot be multiplied exactly. This is exact where the features are 0 and to first order
    around it, but for SMALLEST: the deviation is at most (growth − 1)·SMALLEST plus terms of second order.
    """
    moved = growth != 1
    if not moved.any():
        return
    for rows, c in zip(W.reshape(len(start), len(growth), -1), start, strict=True):
        bias = clip(rows[:, -1].astype(np.float64) + c, -LARGEST, LARGEST)
        size = np.minimum(np.maximum(growth * np.log1p(np.exp(bias)), 1e-12), LARGEST)
        after = size + np.log(-np.expm1(-size))
        slope = growth * (1 + np.exp(-after)) / (1 + np.exp(-bias))
        rows[moved, :-1] *= slope[moved, None].astype(W.dtype)
        rows[moved, -1] = (after - c)[moved]


@dataclass(frozen=True)
class Pinball:
    """Quantiles at (1 ± level)/2 of each level, and the median: 2/Q of the sum of their Q pinball losses.

    The pinball loss of quantile q at τ is (τ − [y < q])·(y − q) (Koenker & Bassett 1978); with this factor, the median
    alone costs |y − q|, and many quantiles cost the continuous ranked probability score. Columns: median, then by
    level the sizes by which the quantiles below lie under the one before, then those above. Quantiles cannot cross.
    """

    levels: tuple[float, ...]

    @property
    def columns(self) -> int:
        """M: the median and two sizes per level."""
        return 1 + 2 * len(self.levels)

    @property
    def starts(self) -> list[float]:
        """What is added to the raw values of each block: their first sizes are those of the normal quantiles."""
        normal = [0.0, *(NormalDist().inv_cdf((1 + level) / 2) for level in self.levels)]
        return [offset(b - a) for a, b in pairwise(normal)] * 2

    def __call__(self, p: Array, y: Array, weight: Array) -> tuple[Array, Array]:
        """Return the loss of each output [.., O], and the derivative of their sum by p [.., M·O]."""
        sides, slope = self._sides(p, y.shape[-1])
        below = [(1 - level) / 2 for level in self.levels]
        tau = np.array([0.5, *below, *(1 - t for t in below)], p.dtype)[:, None]
        median = (p[..., : y.shape[-1]] - y)[..., None, :]
        # Quantiles less the label, [.., Q, O].
        over = np.concatenate([median, median - sides[..., 0, :, :], median + sides[..., 1, :, :]], axis=-2)
        part = (weight * p.dtype.type(2 / len(tau)))[..., None, :]
        dq = part * (0.5 * (1 + np.sign(over)) - tau)  # 0 for the median at its label
        each: Array = (dq * over).sum(axis=-2)
        L = len(self.levels)
        dsides = np.stack([-dq[..., 1 : 1 + L, :], dq[..., 1 + L :, :]], axis=-3)
        dsides = np.cumsum(dsides[..., ::-1, :], axis=-2)[..., ::-1, :] * slope  # a size moves all quantiles beyond it
        return each, np.concatenate([dq.sum(axis=-2), dsides.reshape(*y.shape[:-1], -1)], axis=-1)

    def widths(self, p: Array, outputs: int) -> Array:
        """Return the distances of the quantiles below and above the median, [.., 2, levels, O], in scaled units."""
        return self._sides(p, outputs)[0]

    def _sides(self, p: Array, outputs: int) -> tuple[Array, Array]:
        """Return `widths`, and the derivative of the size that each level adds by its raw value, of that shape."""
        L = len(self.levels)
        raw = p[..., outputs:].reshape(*p.shape[:-1], 2, L, outputs)
        sizes, slope = positive(raw, np.array(self.starts).reshape(2, L, 1))
        return np.cumsum(sizes, axis=-2), slope


@dataclass(frozen=True)
class Located(ABC):
    """What the losses with a location and a scale share; columns: location, raw scale."""

    levels: tuple[float, ...]
    columns = 2

    @property
    def starts(self) -> list[float]:
        """What is added to the raw scale: its first value is 1."""
        return [offset(1.0)]

    @abstractmethod
    def quantiles(self) -> list[float]:
        """Return the upper quantile of each level, in scales."""

    def widths(self, p: Array, outputs: int) -> Array:
        """Return the distances of the levels' quantiles from the location, [.., 2, levels, O], in scaled units."""
        scale, _ = self._scale(p, outputs)
        one_side = scale[..., None, :] * np.array(self.quantiles(), p.dtype)[:, None]
        return np.stack([one_side, one_side], axis=-3)

    def _scale(self, p: Array, outputs: int) -> tuple[Array, Array]:
        return positive(p[..., outputs:], np.array(self.starts))


@dataclass(frozen=True)
class Gaussian(Located):
    """Negative log-likelihood of a normal distribution, log σ + ½·((p − y)/σ)², without the constant ½·log 2π."""

    def quantiles(self) -> list[float]:
        """Return the upper normal quantile of each level."""
        return [NormalDist().inv_cdf((1 + level) / 2) for level in self.levels]

    def __call__(self, p: Array, y: Array, weight: Array) -> tuple[Array, Array]:
        """Return the loss of each output [.., O], and the derivative of their sum by p [.., 2·O]."""
        scale, slope = self._scale(p, y.shape[-1])
        z = (p[..., : y.shape[-1]] - y) / scale
        dz = weight * z
        each = weight * np.log(scale) + 0.5 * dz * z
        return each, np.concatenate([dz / scale, (weight - dz * z) / scale * slope], axis=-1)


@dataclass(frozen=True)
class StudentT(Located):
    """Negative log-likelihood of a t distribution with ν degrees of freedom, location p and scale s.

    It is log s + ½·(ν + 1)·log(1 + z²/ν), z = (p − y)/s, without the constants. Its derivative by the location is at
    most (ν + 1)/(2·√ν·s), however far the label (Lange, Little & Taylor 1989, JASA 84, section 2).
    """

    degrees: float  # ν

    def quantiles(self) -> list[float]:
        """Return the upper t quantile of each level."""
        return [quantile((1 + level) / 2, self.degrees) for level in self.levels]

    def __call__(self, p: Array, y: Array, weight: Array) -> tuple[Array, Array]:
        """Return the loss of each output [.., O], and the derivative of their sum by p [.., 2·O]."""
        scale, slope = self._scale(p, y.shape[-1])
        z = (p[..., : y.shape[-1]] - y) / scale
        square = z * z
        each = weight * (np.log(scale) + 0.5 * (self.degrees + 1) * np.log1p(square / self.degrees))
        pull = weight * (self.degrees + 1) / (self.degrees + square)
        return each, np.concatenate([pull * z / scale, (weight - pull * square) / scale * slope], axis=-1)
