"""Prediction intervals: half-widths around the forecast, one per level and output, that follow its errors.

A half-width is in units of the forecast's scale; with a loss of `spreads`, in units of what that forecasts. Its
logarithm moves by a step per error, up if the error is outside and down otherwise, in the ratio that keeps the asked
share inside, whatever the distribution: quantile tracking (Gibbs & Candès 2021, arXiv:2106.00170; Angelopoulos et al.
2023, arXiv:2307.16895). The half-widths are untrained entries of the flat parameter vector, so that checkpoints,
weights files, rollback and the ONNX export carry them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from model.cells.contract import Params
from model.parameters import Array

# Step of the logarithm: over n errors, the share inside is off by at most (change of the logarithm) / (RATE·n).
RATE = 0.05
FIRST_POWER = 0.5  # the first steps are larger: the n-th is at least (n + 1)^-FIRST_POWER
BETWEEN = 1.5  # a step is at most this, divided by the errors that came between the forecast and its label
SMALLEST, LARGEST = math.log(1e-4), math.log(64)  # of a half-width, scaled units; labels are clipped to 8
LARGEST_COUNT = 2.0**20  # counts keep their digits in float32; the first steps end after 400 errors


def shapes(levels: int, outputs: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the untrained parameters: logarithms of the half-widths by level and output, and errors
    seen by output.
    """
    return {"log": (levels, outputs), "count": (outputs,)}


def init_params(interval: Params, levels: Sequence[float], spread: bool = False) -> None:
    """Write the values before the first error: normal quantiles, as if scaled errors were standard normal.

    They are for persistence on a random walk, because a scale is the running size of the changes that it forecasts.
    spread: half-widths are factors of those that the loss forecasts, and begin at 1.
    """
    normal = np.log([[NormalDist().inv_cdf((1 + level) / 2)] for level in levels])
    interval["log"][...] = 0 if spread else normal
    interval["count"][...] = 0


class Past(NamedTuple):
    """What held when each forecast was given, for forecasts [N, B, O]."""

    log: Array  # [N, B, levels, O] logarithms of the half-widths
    seen: Array  # [N, B, O] errors so far


def follow(
    interval: Params, levels: Sequence[float], p: Array, y: Array, weight: Array, past: Past | None = None
) -> tuple[int, Array]:
    """Update the half-widths with the errors of a group of forecasts, in order of position, then of row.

    interval: modified. p, y, weight: [T, B, O] scaled forecasts, targets, and weights, 0 where there is no target.
    past: the half-widths with which errors are compared; None: those of now. The more errors have come between a
    forecast and its label, the smaller is the step, so that late labels do not make half-widths swing.
    Errors that are not finite do not count. Returns the number of errors, and how many of them were at most the
    half-width that was given, [levels]; without `past`, the one that the group began with.
    """
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # the logarithm of an error of 0 is -inf
        error = np.log(np.abs(np.subtract(p, y, dtype=np.float64)).reshape(-1, p.shape[-1]))
    known = (weight.reshape(error.shape) > 0) & (error < np.inf)  # NaN compares false
    log, seen = interval["log"].astype(np.float64), interval["count"]
    given = log[None] if past is None else past.log.reshape(len(error), *log.shape)
    covered = ((error[:, None] <= np.maximum.accumulate(given, axis=1)) & known[:, None]).sum(axis=(0, 2))
    turns = _turns(known)
    number = seen + np.arange(1.0, len(turns.place) + 1)[:, None]
    rates = turns.there * np.maximum(RATE, (number + 1) ** -FIRST_POWER)
    outputs = np.arange(error.shape[1])
    error = error[turns.place, outputs]
    if past is not None:
        between = number - 1 - past.seen.reshape(known.shape)[turns.place, outputs]
        rates = np.minimum(rates, BETWEEN / np.maximum(between, 1))
    outside = 1 - np.array(levels)[:, None]
    for each, rate, place in zip(error, rates, turns.place, strict=True):
        limit = log if past is None else given[place, :, outputs].T
        log += rate * ((each > limit) - outside)
    interval["log"][...] = np.minimum(np.maximum(log, SMALLEST), LARGEST)
    interval["count"][...] = np.minimum(seen + known.sum(axis=0), LARGEST_COUNT)
    return int(known.sum()), covered


class _Turns(NamedTuple):
    """The k-th known error of every output, k = 0, 1 …, [turns, O]."""

    place: Array  # its row
    there: Array  # whether there is one


def _turns(known: Array) -> _Turns:
    """Return the order of known errors [N, O]. An output's errors may be few and far apart."""
    if len(known) == 1:
        return _Turns(np.zeros(known.shape, np.intp), known)
    output, place = np.nonzero(known.T)
    counts = known.sum(axis=0)
    turn = np.arange(len(output)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = int(counts.max(initial=0)), len(counts)
    places, there = np.zeros(shape, np.intp), np.zeros(shape, np.bool_)
    places[turn, output], there[turn, output] = place, True
    return _Turns(places, there)


def radius(interval: Params) -> Array:
    """Return the half-widths [levels, O] float32, new; none is below that of a lower level."""
    out: Array = np.exp(np.maximum.accumulate(interval["log"]))
    return out


def log_widths(interval: Params, widths: Array) -> Array:
    """Return the logarithms of half-widths that a loss forecasts, [.., 2, levels, O], times the factors, new."""
    out: Array = np.log(widths) + interval["log"]
    return out


def beside(log: Array, p: Array, y: Array) -> Array:
    """Return the half-widths [.., levels, O] on the side of the forecasts p [.., O] where the labels y lie.

    log: [.., 2, levels, O], below and above.
    """
    side: Array = np.where((y < p)[..., None, :], log[..., 0, :, :], log[..., 1, :, :])
    return side


def bounds(interval: Params, y: Array, unit: Array, widths: Array | None = None) -> Array:
    """Return lower and upper bounds [B, 2·levels·O], new: all lower ones first, level by level.

    y: [B, O] forecasts; unit: [B, O] size of a scaled unit. The bounds are NaN where the unit is 0, not known yet.
    widths: [B, 2, levels, O] forecast half-widths, of which the parameters are factors; no bound is within one of a
    lower level.
    """
    known = np.where(unit > 0, unit, np.float32(np.nan))[:, None]
    if widths is not None:
        half = np.maximum.accumulate(np.exp(interval["log"]) * widths, axis=2) * known[:, None]
        half[:, 0] *= -1
        sides: Array = (y[:, None, None] + half).reshape(len(y), -1)
        return sides
    half = known * radius(interval)
    out: Array = np.concatenate([y[:, None] - half, y[:, None] + half], axis=1).reshape(len(y), -1)
    return out
