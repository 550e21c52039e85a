"""Regressors that the mixture's linear readouts have beside the network's: recent changes, the level, past seasons.

A stream keeps its last LAGS values, and its values of one whole longest season, in slots: a slot is a place in the
season, taken from the event time, so that missing ticks do not shift the others. Everything is in units of the
stream's scales, so that forecasts stay equivariant.

A slot or value of 0 was never written; a written 0 is stored as NEVER_ZERO, which float32 absorbs in any larger value.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from model.bounds import MAX_VALUE, Bound, clip, constant
from model.parameters import Array
from model.scalers.contract import TINY
from model.spec import ModelSpec

LAGS = 23
CLIP = 8.0  # of a change, in scales
# Of the level, in running deviations. The scaler's clip of 4 bends the level of counts that are mostly 0, which cost up
# to 3 % there.
LEVEL_CLIP = 16.0
NEVER_ZERO = 1e-30
PROFILE = 5  # steps of the season's values among the regressors of every step


class Regressors(NamedTuple):
    """Of B ticks.

    every [B, K, q]: the same for all steps: recent changes, the level, then of each season a profile and a change; step
    [B, H, K, 2·seasons]: of each step: for each season, the value a season before the forecast tick less the present
    value, then the change since a season ago; delta [B, K, seasons]: that change in raw units.
    """

    every: Array
    step: Array
    delta: Array


class Columns:
    """Settings and layout. The values live in a part of a stream's state row, which starts as zeros.

    Row: the last LAGS values of the K targets, newest first [LAGS·K]; the slots [L·K].
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.targets = K = len(spec.targets)
        self.horizon = H = spec.horizon
        self.periods, self.slots = spec.periods, spec.slots
        L = self.slots
        self.size = (LAGS + L) * K
        self.bounds: tuple[Bound, ...] = (Bound("a recent value", LAGS * K, -MAX_VALUE, MAX_VALUE),)
        if L:
            self.bounds += (Bound("a value of the season", L * K, -MAX_VALUE, MAX_VALUE),)
        # Steps of the profile, from 0.
        self.profile = sorted({max(0, H * i // (PROFILE - 1) - 1) for i in range(PROFILE)}) if H > 1 else [0]
        self.before_seasons = LAGS + 1  # regressors
        self.every = self.before_seasons + len(self.periods) * (len(self.profile) + 1)
        self.step = 2 * len(self.periods)
        slot_s = max(self.periods) / L if L else 1.0
        steps = np.arange(1, H + 1) * spec.interval
        back = [[math.ceil(s / p - 1e-9) * p for s in steps] for p in self.periods]  # seconds, whole seasons
        self.ahead = self._offsets((steps - np.array(back).reshape(len(back), H)) / slot_s)  # [seasons, H], from t
        self.now = np.array(0.5, np.float32)
        self.before = self._offsets(-np.array(self.periods) / slot_s)  # [seasons]: a season ago

    def _offsets(self, slots: Array) -> Array:
        """Return distances in slots as float32 in 0.5..L + 0.5: half a slot is added, to round to the nearest."""
        return (np.mod(slots, max(1, self.slots)) + 0.5).astype(np.float32)

    def index(self, slot: Array, offsets: Array) -> Array:
        """Return the slots, int, at `offsets` from `slot` float32, which are broadcast."""
        at = slot + offsets
        found: Array = np.floor(np.fmod(at, constant(self.slots))).astype(np.intp)
        return found

    def update(self, row: Array, x: Array, slot: Array, scale: Array, level: Array) -> Regressors:
        """Add a tick to the rows and return its regressors, new arrays.

        row: [B, size], modified; x: [B, K] values of the targets; slot: [B] the tick's place in the longest season, in
        slots (ignored without seasons); scale: [B, H, K]; level: [B, K], see `level`.
        """
        B, K = x.shape
        recent = row[:, : LAGS * K].reshape(B, LAGS, K)
        unit = np.maximum(scale, constant(TINY))
        newer = np.concatenate([x[:, None], recent[:, :-1]], axis=1)
        changes = np.where(recent == 0, constant(0), newer - recent) / unit[:, :1]
        every = [_clipped(changes), level[:, None]]  # [B, LAGS + 1, K]
        recent[:, 1:] = recent[:, :-1].copy()
        recent[:, 0] = x + constant(NEVER_ZERO)
        if not self.slots:
            none = np.zeros((B, self.horizon, K, 0), np.float32)
            lagged = np.concatenate(every, axis=1).transpose(0, 2, 1).copy()
            return Regressors(lagged, none, np.zeros((B, K, 0), np.float32))
        ring = row[:, LAGS * K :].reshape(B, self.slots, K)
        rows = np.arange(B)
        past = ring[rows[:, None], self.index(slot[:, None], self.before)]  # [B, seasons, K]
        delta = np.where(past == 0, constant(0), x[:, None] - past)
        ring[rows, self.index(slot, self.now)] = x + constant(NEVER_ZERO)
        step = self.steps(row, slot[:, None], x[:, None], scale, delta.transpose(0, 2, 1)[:, None])
        for season in range(len(self.periods)):
            every += [step[..., 2 * season][:, self.profile], step[:, -1:, :, 2 * season + 1]]
        return Regressors(
            np.concatenate(every, axis=1).transpose(0, 2, 1).copy(), step, delta.transpose(0, 2, 1).copy()
        )

    def steps(self, row: Array, slot: Array, origin: Array, scale: Array, delta: Array) -> Array:
        """Return the regressors of each step, [B, H, K, 2·seasons], with the slots as they are now.

        row: [B, size]; slot [B, H], origin [B, H, K], delta [B, H, K, seasons]: place, value and change of the tick
        from which each step is forecast, or with 1 instead of H where it is one tick; scale: [B, H, K] of that tick.
        """
        B, H, K = scale.shape
        if not self.slots:
            return np.zeros((B, H, K, 0), np.float32)
        ring = row[:, LAGS * K :].reshape(B, self.slots, K)
        values = ring[np.arange(B)[:, None, None], self.index(slot[:, None], self.ahead)]  # [B, seasons, H, K]
        unit = np.maximum(scale, constant(TINY))
        off = np.where(values == 0, constant(0), values - origin[:, None]) / unit[:, None]
        changed = delta / unit[..., None]
        pairs = np.stack([off.transpose(0, 2, 3, 1), changed], axis=-1)  # [B, H, K, seasons, 2]
        return _clipped(pairs.reshape(*pairs.shape[:3], -1))


def level(x: Array, mean: Array, variance: Array) -> Array:
    """Return the distances of values from their running means in running deviations, limited to LEVEL_CLIP, new."""
    distance = (x - mean) / (np.sqrt(variance) + constant(TINY))
    return clip(distance, -LEVEL_CLIP, LEVEL_CLIP)


def _clipped(values: Array) -> Array:
    clipped: Array = clip(values, -CLIP, CLIP)
    return clipped
