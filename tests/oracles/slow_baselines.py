"""Slow, obvious twins of the seasonal baselines: each forecast is computed from the whole past of one channel."""

import math

import numpy as np

Past = list[tuple[float, float]]  # (time, value) of each tick so far


def slot_of(time: float, start: float, interval: float) -> int:
    return round((time - start) / interval)


def value_at(past: Past, slot: int, interval: float) -> float:
    """The first value in a slot of time, NaN without one."""
    start = past[0][0]
    here = [v for t, v in past if slot_of(t, start, interval) == slot and not math.isnan(v)]
    return here[0] if here else math.nan


def season_values(past: Past, h: int, season: float, interval: float) -> tuple[float, float]:
    """The values at t + h − mS and at t − mS, with the smallest mS >= h."""
    now, m = slot_of(past[-1][0], past[0][0], interval), 1
    while m * season < h:
        m += 1
    ahead = now + int(np.rint(h - m * season))
    return value_at(past, ahead, interval), value_at(past, now + int(np.rint(-m * season)), interval)


def naive(past: Past, horizon: int, season: float, interval: float) -> list[float]:
    present = next((v for _, v in reversed(past) if not math.isnan(v)), 0.0)
    made = [season_values(past, h, season, interval)[0] for h in range(1, horizon + 1)]
    return [present if math.isnan(value) else value for value in made]


def season_columns(past: Past, h: int, seasons: list[float], interval: float, scale: float) -> list[float]:
    """The regressors of step h: of every season the change from now, then of every season the change back then."""
    pairs = [season_values(past, h, season, interval) for season in seasons]
    changes = [ahead - past[-1][1] for ahead, _ in pairs] + [ahead - before for ahead, before in pairs]
    return [0.0 if math.isnan(c) or scale == 0 else float(np.clip(c / scale, -8, 8)) for c in changes]


def ridge(Z: np.ndarray, y: np.ndarray, covariance: float) -> np.ndarray:
    """Least squares of all pairs at once, with the prior of an initial P."""
    return np.linalg.solve(Z.T @ Z + np.eye(Z.shape[1]) / covariance, Z.T @ y)


def recursive(Z: np.ndarray, y: np.ndarray, forgetting: float, covariance: float) -> np.ndarray:
    """The same pair by pair with forgetting, the trace of P limited to its first value."""
    n = Z.shape[1]
    w, P = np.zeros(n), covariance * np.eye(n)
    for z, label in zip(Z, y, strict=True):
        energy = forgetting + z @ P @ z
        w = w + P @ z / energy * (label - w @ z)
        P = (P - np.outer(P @ z, P @ z) / energy) / forgetting
        P = P * min(1.0, covariance * n / np.trace(P))
    return w
