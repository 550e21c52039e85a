"""Seasonal baselines: the value one season ago, and least squares that also sees the last seasons.

Values are found by time, in slots of one interval, so that a gap does not shift the season.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model.offline.baselines import Array, Values
from model.offline.least_squares import (
    FORGETTING,
    LAGS,
    START_COVARIANCE,
    TARGET_CLIP,
    LaggedValues,
    check_settings,
    divide,
)


class SeasonMemory:
    """The values of one stream over its longest season, by slot of time.

    The slot of a tick is the rounded number of intervals since the first tick; a tick without a time takes the next
    slot. Of several ticks in a slot the first counts. seasons: periods in ticks, at least 2 each, also fractions;
    interval: seconds per tick. Memory: (longest season + 2 × horizon) × channels values at most.
    """

    def __init__(self, channels: int, horizon: int, seasons: Sequence[float], interval: float) -> None:
        if not seasons or min(seasons) < 2 or not all(map(math.isfinite, seasons)) or not interval > 0:
            raise ValueError(f"need seasons of 2 ticks or more and an interval above 0, got {seasons} and {interval}")
        period, h = np.array(seasons, np.float64)[:, None], np.arange(1, horizon + 1)
        back = np.ceil(h / period) * period  # the smallest multiple of the period that is at least h
        self._ahead, self._before = np.rint(h - back).astype(np.int64), np.rint(-back).astype(np.int64)
        size = 1 - int(self._before.min())
        self._values, self._slots = np.full((size, channels), np.nan), np.full(size, -1, np.int64)
        self._interval, self._start, self._now = interval, math.nan, -1

    def put(self, x: Array, time: float) -> None:
        """Store the values (C,) of the newest tick; NaN is no value."""
        if math.isnan(self._start):
            self._start = time
        passed = (time - self._start) / self._interval
        self._now = self._now + 1 if math.isnan(passed) else max(0, round(passed))
        place = self._now % len(self._slots)
        if self._slots[place] < self._now:
            self._slots[place], self._values[place] = self._now, x
        else:
            known = self._values[place]
            self._values[place] = np.where(np.isnan(known), x, known)

    def seasons(self) -> tuple[Array, Array]:
        """Return, for the newest tick t, season S and step h, the values at t + h − mS and at t − mS, (S, H, C) each.

        m is the smallest number of seasons with mS >= h. NaN where there is no value.
        """
        return self._at(self._now + self._ahead), self._at(self._now + self._before)

    def _at(self, slots: npt.NDArray[np.int64]) -> Array:
        places = slots % len(self._slots)
        values: Array = self._values[places]
        values[(self._slots[places] != slots) | (slots < 0)] = np.nan
        return values


class SeasonalNaive:
    """Forecasts the value at the same time of the last season, and the present value where there is none.

    season: in ticks; interval: seconds per tick. Missing values, NaN, are replaced by the last observed one; before the
    first, the forecast is 0.
    """

    def __init__(self, channels: int, horizon: int, season: float, interval: float = 1.0) -> None:
        self.horizon = horizon
        self._memory = SeasonMemory(channels, horizon, (season,), interval)
        self._held = np.zeros(channels)

    def step(self, x: Values, u: Values | None = None, time: float = math.nan) -> Array:
        """See `Baseline.step`; x may hold NaN, `u` is not used."""
        now: Array = np.asarray(x, np.float64)
        self._held = np.where(np.isnan(now), self._held, now)
        self._memory.put(now, time)
        [ahead], _ = self._memory.seasons()
        return np.where(np.isnan(ahead), self._held, ahead)


class SeasonalLeastSquares:
    """`RecursiveLeastSquares` with two more regressors per season.

    For step h and season S they are, in difference scales of the origin t, the change from x_t to x_{t+h−mS}, and the
    change from x_{t−mS} to x_{t+h−mS}, with the smallest mS >= h; 0 where a value is not known, at most TARGET_CLIP.
    They differ by step, so that each output has a P of its own; a pair is learned when its label arrives.
    seasons: periods in ticks, with `ahead` also none; interval: seconds per tick; known: inputs that are the same for
    all steps; ahead: inputs of each step. u of `step` has the former, then those of step 1, of step 2 ….
    """

    def __init__(
        self,
        channels: int,
        horizon: int,
        seasons: Sequence[float],
        interval: float = 1.0,
        *,
        lags: int = LAGS,
        known: int = 0,
        ahead: int = 0,
        forgetting: float = FORGETTING,
        covariance: float = START_COVARIANCE,
    ) -> None:
        check_settings(channels, horizon, lags, min(known, ahead), forgetting, covariance)
        self._lagged = LaggedValues(channels, lags, known)
        self._memory = SeasonMemory(channels, horizon, seasons, interval) if seasons or not ahead else None
        C, H, common, own = channels, horizon, self._lagged.size, 2 * len(seasons) + ahead
        n = common + own
        self._known, self._ahead = known, ahead
        self.horizon, self.forgetting, self._common, self._ticks = H, forgetting, common, 0
        self._weights, self._z = np.zeros((H, C, n)), np.zeros((H, C, n))
        self._P = np.tile(covariance * np.eye(n), (H, C, 1, 1))
        self._scratch, self._trace_cap = np.empty_like(self._P), covariance * n
        # The last H origins, that of tick t at t mod H.
        self._regressor, self._origin, self._scale = np.zeros((H, C, common)), np.zeros((H, C)), np.zeros((H, C))
        # Columns by step of the last h origins of each head h, one head after the other.
        self._steps = np.arange(1, H + 1)
        self._begins = self._steps * (self._steps - 1) // 2
        self._columns = np.zeros((H * (H + 1) // 2, C, own))

    def step(self, x: Values, u: Values | None = None, time: float = math.nan) -> Array:
        """See `Baseline.step`. Raises ValueError if x is not (channels,) or u not (known + horizon × ahead,)."""
        given = np.zeros(0) if u is None else np.asarray(u, np.float64)
        now, common = self._lagged.check(x, given[: self._known])
        by_step = given[self._known :]
        if by_step.shape != (self.horizon * self._ahead,):
            raise ValueError(f"need u ({self._known + self.horizon * self._ahead},), got {given.shape}")
        places = self._begins + self._ticks % self._steps
        self._learn(now, places)
        regressor, scale = self._lagged.follow(now, common)
        columns = self._columns[places] = self._by_step(now, scale, time, by_step.reshape(self.horizon, -1))
        slot = self._ticks % self.horizon
        self._regressor[slot], self._origin[slot], self._scale[slot] = regressor, now, scale
        self._ticks += 1
        lagged = np.einsum("hcn,cn->hc", self._weights[:, :, : self._common], regressor)
        forecast: Array = now + scale * (
            lagged + np.einsum("hcn,hcn->hc", self._weights[:, :, self._common :], columns)
        )
        return forecast

    def _by_step(self, x: Array, scale: Array, time: float, own: Array) -> Array:
        """Add the newest tick to the seasons and return its columns by step, (H, C, 2S + ahead). own: (H, ahead)."""
        repeated = np.repeat(own[:, None], len(x), axis=1)
        repeated[:, scale == 0] = 0.0  # as in `LaggedValues`
        if self._memory is None:
            return repeated
        self._memory.put(x, time)
        ahead, before = self._memory.seasons()
        changes = np.concatenate([ahead - x, ahead - before])
        columns = np.clip(np.nan_to_num(divide(changes, scale)), -TARGET_CLIP, TARGET_CLIP)
        return np.concatenate([columns.transpose(1, 2, 0), repeated], axis=2)

    def _learn(self, x: Array, places: npt.NDArray[np.int64]) -> None:
        """Update weights and P: x is the label of head h for the origin h ticks ago, whose columns are at `places`."""
        slots = (self._ticks - self._steps) % self.horizon
        z, P, scale = self._z, self._P, self._scale[slots]
        z[:, :, : self._common], z[:, :, self._common :] = self._regressor[slots], self._columns[places]
        target = np.clip(divide(x - self._origin[slots], scale), -TARGET_CLIP, TARGET_CLIP)
        error = target - np.einsum("hcn,hcn->hc", self._weights, z)
        projected = np.matmul(P, z[..., None])[..., 0]
        energy = self.forgetting + np.maximum(np.einsum("hcn,hcn->hc", projected, z), 0.0)
        self._weights += projected * (error / energy)[..., None]
        root = projected / np.sqrt(energy)[..., None]  # one factor for both sides keeps P exactly symmetric
        np.multiply(root[..., :, None], root[..., None, :], out=self._scratch)
        P -= self._scratch
        trace = np.einsum("hcii->hc", P) / self.forgetting
        P *= (np.minimum(1.0, self._trace_cap / trace) / self.forgetting)[..., None, None]
