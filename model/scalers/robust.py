"""Robust running statistics, shared by the scalers: no single value, unit, level or first value can spoil them.

A plain running mean square keeps one absurd value for thousands of ticks. Here the influence of every value is bounded
from the first tick on (Huber 1964), and a lasting change is followed within some tens of ticks:

- *pace* is the typical size of a nonzero one-step change. It moves by factors, so that a change of any size moves it
  by a bounded factor. *trend* is the evidence that the pace is too large or too small; the more evidence, the faster
  the pace moves.
- Squares of changes are capped at CAP times their running mean (winsorised). Where their root leaves a band around the
  pace, a factor pulls them back. *haste* then raises the rate of all running statistics, and decays as 1/n.
- *shift* is the evidence that the level is far off on one side; as it grows, the level jumps.

All functions are continuous in their inputs, so that float32 NumPy and ONNX cannot diverge at a threshold. They use
only operations that IEEE 754 rounds exactly, so that a row has the same bits in any batch: roots replace logarithms and
exponentials, whose rounding differs between vector units. All quantities are relative to the channel's own sizes, so
that forecasts stay equivariant. All arrays are float32 [B, C]; state arguments are modified in place.
"""

from __future__ import annotations

import numpy as np

from model.bounds import MAX_VALUE, clip, constant
from model.scalers.contract import TINY, Array, rate

CAP = 25.0  # of a square of a change, in running mean squares
PACE_REACH = 400.0  # the ratio of change and pace is limited to this factor either way
PACE_ROOTS = 4  # square roots of change / pace: a memory of 2⁴ nonzero changes
PACE_HURRY = 0.8  # weight of the fast step, by the ratio's square root, when the trend is full
TREND_RATE = 1 / 4
TREND_GAIN = 1.25  # a change of 9 times the pace, or a ninth of it, is full evidence
TREND_DEAD = 0.6  # evidence below this has no effect; independent changes stay well below it by chance
BAND = 5.0  # largest ratio of root mean square and pace, either way; normally distributed changes have 1.9
JOLT_FROM = 1.5  # this factor beyond the band, the level starts to jump with the unit
JOLT_TO = 3.0  # this factor beyond the band, it jumps to the value
HASTE_COUNT = 24.0  # after a full pull, statistics continue as if they had seen this many ticks
LEVEL_CAP = 5.0  # largest distance from the level that counts, in deviations or changes, whichever is larger
SHIFT_RATE = 1 / 8
SHIFT_UNIT = 4.0  # this many deviations from the level are full evidence
SHIFT_DEAD = 0.75  # evidence below this does not speed up the level
SHIFT_DOUBT = 0.25  # evidence above this keeps the value out of the variance
SHIFT_JUMP = 0.5  # share of the distance that the level moves with full evidence
# Name and range of pace, trend, haste and shift.
BOUNDS = (("a pace", 0, 2 * MAX_VALUE), ("a trend", -1, 1), ("a haste", 0, 1 / HASTE_COUNT), ("a shift", -1, 1))
FIRST = 1e16  # larger than any value: the bound at the first tick, whose value becomes the level
_ONE, _TINY = constant(1), constant(TINY)


def above(value: Array, dead: float) -> Array:
    """Map `value` linearly from dead..1 to 0..1, clipped."""
    share: Array = clip((value - constant(dead)) / constant(1 - dead), 0, 1)
    return share


def follow_pace(pace: Array, trend: Array, change: Array) -> None:
    """Update pace and trend with one-step changes. A change of 0 leaves the pace; the first nonzero one becomes it."""
    size: Array = np.abs(change)
    moved: Array = np.divide(np.minimum(size, _TINY), _TINY)
    unset: Array = _ONE - np.divide(np.minimum(pace, _TINY), _TINY)
    off: Array = constant(TREND_GAIN) * np.divide(size - pace, size + pace + _TINY)
    evidence: Array = clip(off, -1, 1)
    evidence *= moved
    trend += constant(TREND_RATE) * moved * (evidence - trend)
    ratio: Array = (size + _TINY) / (pace + _TINY)
    swift: Array = np.sqrt(clip(ratio, 1 / PACE_REACH, PACE_REACH))
    slow = swift
    for _ in range(PACE_ROOTS - 1):
        slow = np.sqrt(slow)
    factor = slow + constant(PACE_HURRY) * above(trend * evidence, TREND_DEAD) * (swift - slow)
    pace += pace * (moved * (factor - _ONE)) + unset * size


def pull(pace: Array, haste: Array, root: Array, observed: Array | None) -> tuple[Array, Array]:
    """Update haste; return the factor for all mean squares and the share of its distance that the level jumps, 0..1.

    The factor brings the root mean square change halfway back to the band around the pace; it is 1 within the band and
    where nothing was observed. The jump is 0 within the band and rises to 1 far outside it.
    root: root mean square of the one-step changes; only read.
    """
    ratio: Array = (root + _TINY) / (pace + _TINY)
    within: Array = clip(ratio, 1 / BAND, BAND)
    factor: Array = within / ratio
    if observed is not None:
        factor = _ONE + observed * (factor - _ONE)
    excess = np.maximum(factor, _ONE / np.maximum(factor, _TINY))
    fading = haste / (_ONE + (haste if observed is None else haste * observed))
    haste[...] = np.maximum(fading, (_ONE - _ONE / np.sqrt(excess)) / constant(HASTE_COUNT))
    return factor, clip((excess - constant(JOLT_FROM)) / constant(JOLT_TO - JOLT_FROM), 0, 1)


def hasty_rate(seen: Array, haste: Array, observed: Array | None) -> Array:
    """Return the larger of `rate` and haste, at most 1; 0 where nothing was observed."""
    a: Array = np.minimum(np.maximum(rate(seen, None), haste), _ONE)
    return a if observed is None else a * observed


def follow_level(
    shift: Array, variance: Array, off: Array, jolt: Array, root: Array, t: Array, a: Array, observed: Array | None
) -> Array:
    """Update shift and variance with a value; return the distance that the level moves, a new array.

    off: distance of the value from the level before it; jolt: least share of `off` that the level jumps (`pull`);
    root: root mean square of the one-step changes; t: ticks seen, this one included; a: rate of the statistics, 0
    where nothing was observed.
    """
    begun = clip(t - _ONE, 0, 1)
    wide = np.maximum(np.sqrt(variance), root)
    evidence = begun * clip(off / (constant(SHIFT_UNIT) * wide + _TINY), -1, 1)
    noticed = evidence - shift
    shift += constant(SHIFT_RATE) * (noticed if observed is None else noticed * observed)
    agreed = shift * evidence
    jump = constant(SHIFT_JUMP) * above(agreed, SHIFT_DEAD)
    jump = np.maximum(jump if observed is None else jump * observed, jolt)
    bound = constant(LEVEL_CAP) * wide + (_ONE - begun) * constant(FIRST)
    rest = clip((_ONE - jump) * off, -bound, bound)
    trusted = a * (_ONE - above(agreed, SHIFT_DOUBT))
    variance[...] = (_ONE - trusted) * (variance + trusted * rest * rest)
    moved: Array = jump * off + a * rest
    return moved
