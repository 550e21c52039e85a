"""Baselines for every claim of forecast quality: persistence, and recursive least squares on lags.

Both are prequential forecasters of one stream: `step` learns from the values of one tick and forecasts the ticks after
it. No forecast uses anything after its origin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Values = npt.NDArray[np.floating[Any]]

LEVEL_RATE = 0.002  # slowest rate of the running statistics: a memory of 500 ticks
WARM_DIFFERENCES = 50  # after this many, a squared difference counts for at most CAP times the running one
CAP = 25.0
RELATIVE_FLOOR = 1e-3  # floor of the difference scale, as a share of the running standard deviation
TARGET_CLIP = 8.0  # in difference scales: with a squared loss, one outlier must not undo a thousand ticks


class Baseline(Protocol):
    """A forecaster of one stream."""

    def step(self, x: Values, u: Values | None = None) -> Array:
        """Learn from this tick and return the forecasts of the next H ticks.

        x: (C,), finite, in the stream's units; u: (F,), known-ahead inputs of the NEXT tick, such as its calendar.
        Returns a new array (H, C) in the same units; row h−1 forecasts the h-th tick from here.
        """
        ...


class Persistence:
    """Forecasts the present value for every step."""

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon

    def step(self, x: Values, u: Values | None = None) -> Array:
        """See `Baseline.step`; `u` is not used."""
        return np.repeat(np.asarray(x, np.float64)[None], self.horizon, axis=0)


class Held:
    """Baseline for values that may be missing, NaN: one baseline per channel, fed with its last observed value.

    A channel starts with its first value; before it, nothing is learned and the forecast is 0. make: returns a new
    baseline of one channel and this horizon.
    """

    def __init__(self, make: Callable[[], Baseline], channels: int, horizon: int) -> None:
        self._baselines = [make() for _ in range(channels)]
        self._held = np.full(channels, np.nan)
        self.horizon = horizon

    def step(self, x: Values, u: Values | None = None) -> Array:
        """See `Baseline.step`; x may hold NaN."""
        self._held = np.where(np.isnan(x), self._held, x)
        forecast = np.zeros((self.horizon, len(self._held)))
        for c in np.flatnonzero(~np.isnan(self._held)):
            forecast[:, c] = self._baselines[c].step(self._held[c : c + 1], u)[:, 0]
        return forecast


class RecursiveLeastSquares:
    """Exponentially weighted least squares per channel and horizon (Haykin, Adaptive Filter Theory, ch. 10).

    The regressor holds the last `lags` values, as differences and the level, an intercept, and `known` inputs. It is in
    units of running statistics, so that raw values may have any size and zero weights are persistence. When tick t
    arrives, head h learns from the regressor and the scale of tick t−h. The heads of one channel share their regressors
    and therefore the inverse covariance P; each uses the gain of its own origin.

    Forgetting makes P grow without bound in every direction that is not excited (wind-up), so its trace is limited to
    its initial value. The update keeps P exactly symmetric, because the usual gain-times-row form loses symmetry and
    diverges at forgetting factors below 0.995.
    """

    def __init__(
        self, channels: int, horizon: int = 1, *, lags: int = 24, known: int = 0, forgetting: float = 0.9995
    ) -> None:
        if min(channels, horizon, lags) < 1 or known < 0 or not 0 < forgetting <= 1:
            raise ValueError(
                f"need channels, horizon, lags >= 1, known >= 0 and 0 < forgetting <= 1, "
                f"got {channels}, {horizon}, {lags}, {known} and {forgetting}"
            )
        C, H, n = channels, horizon, lags + 1 + known
        self.channels, self.horizon, self.lags, self.known, self.forgetting = C, H, lags, known, forgetting
        self._ticks = 0
        self._mean, self._variance, self._difference = np.zeros(C), np.zeros(C), np.zeros(C)
        self._last = np.zeros((lags, C))  # newest first
        self._weights = np.zeros((H, C, n))
        self._P = np.tile(10.0 * np.eye(n), (C, 1, 1))
        self._trace_cap = 10.0 * n
        # The last H origins, that of tick t at t mod H.
        self._regressor, self._gain = np.zeros((H, C, n)), np.zeros((H, C, n))
        self._origin, self._scale = np.zeros((H, C)), np.zeros((H, C))

    def step(self, x: Values, u: Values | None = None) -> Array:
        """See `Baseline.step`. Raises ValueError if x is not (channels,) or u not (known,)."""
        now: Array = np.asarray(x, np.float64)
        ahead: Array = np.asarray(() if u is None else u, np.float64)
        if now.shape != (self.channels,) or ahead.shape != (self.known,):
            raise ValueError(f"need x ({self.channels},) and u ({self.known},), got {now.shape} and {ahead.shape}")
        self._learn(now)
        deviation, scale = self._follow(now)
        regressor = self._regress(now, ahead, deviation, scale)
        slot = self._ticks % self.horizon
        self._regressor[slot], self._gain[slot] = regressor, self._update_covariance(regressor)
        self._origin[slot], self._scale[slot] = now, scale
        self._ticks += 1
        forecast: Array = now + scale * np.einsum("hcn,cn->hc", self._weights, regressor)
        return forecast

    def _learn(self, x: Array) -> None:
        """Update the weights: x is the label of head h for the origin h ticks ago."""
        slots = (self._ticks - 1 - np.arange(self.horizon)) % self.horizon
        scale = self._scale[slots]
        target = np.clip(divide(x - self._origin[slots], scale), -TARGET_CLIP, TARGET_CLIP)
        error = target - np.einsum("hcn,hcn->hc", self._weights, self._regressor[slots])
        self._weights += self._gain[slots] * error[:, :, None]

    def _follow(self, x: Array) -> tuple[Array, Array]:
        """Update running statistics and lags with x; return standard deviation and difference scale, (C,) each."""
        t = self._ticks + 1
        rate = max(1 / t, LEVEL_RATE)
        e = x - self._mean
        self._mean += rate * e
        self._variance += rate * ((1 - rate) * e * e - self._variance)
        if t == 1:
            self._last[:] = x
        else:
            square = (x - self._last[0]) ** 2
            if t > WARM_DIFFERENCES:
                square = np.minimum(square, CAP * self._difference)
            self._difference += max(1 / (t - 1), LEVEL_RATE) * (square - self._difference)
        self._last[1:] = self._last[:-1].copy()
        self._last[0] = x
        deviation = np.sqrt(self._variance)
        return deviation, np.sqrt(self._difference) + RELATIVE_FLOOR * deviation

    def _regress(self, x: Array, u: Array, deviation: Array, scale: Array) -> Array:
        """Return the regressor (C, lags + 1 + known) of the tick that `_follow` has added."""
        regressor = np.empty((self.channels, self._weights.shape[2]))
        regressor[:, : self.lags - 1] = divide(self._last[:-1] - self._last[1:], scale).T
        regressor[:, self.lags - 1] = divide(x - self._mean, deviation)
        regressor[:, self.lags] = 1.0
        regressor[:, self.lags + 1 :] = u
        regressor[scale == 0] = 0.0  # nothing is learned from a channel that has not changed yet
        return regressor

    def _update_covariance(self, regressor: Array) -> Array:
        """Update P with one regressor (C, n) and return its gain, (C, n)."""
        P = self._P
        projected = np.einsum("cij,cj->ci", P, regressor)
        energy = self.forgetting + np.maximum(np.einsum("ci,ci->c", projected, regressor), 0.0)
        P -= projected[:, :, None] * projected[:, None, :] / energy[:, None, None]
        P /= self.forgetting
        trace = np.einsum("cii->c", P)
        P *= np.minimum(1.0, self._trace_cap / trace)[:, None, None]
        gain: Array = projected / energy[:, None]
        return gain


def divide(a: Array, b: Array) -> Array:
    """Return a / b, and 0 where b is 0, as for a channel that never changed."""
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b > 0)
