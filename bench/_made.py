"""Synthetic series of many kinds, each a pure function of a random generator and a number of rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Make = Callable[[np.random.Generator, int], F64]


def autoregressive(rng: np.random.Generator, n: int, pull: float, noise: F64 | None = None) -> F64:
    """Return (n,): each value is `pull` times the one before plus noise, standard normal by default."""
    shocks = rng.standard_normal(n) if noise is None else noise
    out = np.empty(n)
    value = 0.0
    for i in range(n):
        value = pull * value + shocks[i]
        out[i] = value
    return out


def wave(n: int, period: float, phase: float = 0.0) -> F64:
    """Return (n,): a sine with this period in rows."""
    out: F64 = np.sin(2 * np.pi * (np.arange(n) + phase) / period)
    return out


def shape(rng: np.random.Generator, n: int, period: int) -> F64:
    """Return (n,): a random smooth profile of `period` rows, repeated, with deviation 1."""
    profile = np.zeros(period)
    for k in range(1, 6):
        profile += rng.standard_normal() / k * wave(period, period / k, rng.uniform(0, period))
    return np.resize((profile - profile.mean()) / profile.std(), n)


def trend(rng: np.random.Generator, n: int) -> F64:
    """A line that changes its slope now and then, with autoregressive noise."""
    slope = np.repeat(rng.normal(0, 0.05, n // 1000 + 1), 1000)[:n]
    return (np.cumsum(slope + 0.05) + autoregressive(rng, n, 0.5))[:, None]


def two_seasons(rng: np.random.Generator, n: int) -> F64:
    """Hours with a season of a day and one of a week."""
    return (50 + 5 * shape(rng, n, 24) + 3 * shape(rng, n, 168) + autoregressive(rng, n, 0.7))[:, None]


def other_season(rng: np.random.Generator, n: int) -> F64:
    """A season of 37 rows, which no calendar knows."""
    return (3 * shape(rng, n, 37) + autoregressive(rng, n, 0.3))[:, None]


def regimes(rng: np.random.Generator, n: int) -> F64:
    """Mean, deviation and dynamics change every 1,500 rows."""
    parts = [
        rng.normal(0, 10) + rng.uniform(0.3, 3) * autoregressive(rng, 1500, rng.choice([-0.6, 0.0, 0.6, 0.97]))
        for _ in range(n // 1500 + 1)
    ]
    return np.concatenate(parts)[:n, None]


def intermittent(rng: np.random.Generator, n: int) -> F64:
    """Counts that are 0 in nine of ten rows."""
    return (rng.random(n) < 0.1)[:, None] * (1.0 + rng.poisson(2, (n, 1)))


def rare(rng: np.random.Generator, n: int) -> F64:
    """Counts that are 0 in 98 of 100 rows, more often by day."""
    return (rng.random(n) < 0.02 + 0.02 * wave(n, 24))[:, None] * (1.0 + rng.poisson(1, (n, 1)))


def traffic(rng: np.random.Generator, n: int) -> F64:
    """Poisson counts of quarter-hours with day and week."""
    return rng.poisson(np.exp(3 + 0.6 * shape(rng, n, 96) + 0.3 * shape(rng, n, 672)))[:, None].astype(float)


def few_counts(rng: np.random.Generator, n: int) -> F64:
    """Small Poisson counts of hours with a day."""
    return rng.poisson(np.exp(0.3 + 0.7 * wave(n, 24)))[:, None].astype(float)


def noise(rng: np.random.Generator, n: int) -> F64:
    """Independent normal values around a constant level."""
    return 20 + rng.standard_normal((n, 1))


def walk(rng: np.random.Generator, n: int) -> F64:
    """A random walk."""
    return np.cumsum(rng.standard_normal((n, 1)), axis=0)


def reverting(rng: np.random.Generator, n: int) -> F64:
    """An autoregression of order 1 that forgets fast."""
    return autoregressive(rng, n, 0.3)[:, None]


def alternating(rng: np.random.Generator, n: int) -> F64:
    """An autoregression of order 1 that overshoots: each value tends to the other side."""
    return autoregressive(rng, n, -0.7)[:, None]


def heavy_tails(rng: np.random.Generator, n: int) -> F64:
    """An autoregression driven by Student's t with 2 degrees of freedom, whose variance is infinite."""
    return autoregressive(rng, n, 0.6, rng.standard_t(2, n))[:, None]


def heavy_noise(rng: np.random.Generator, n: int) -> F64:
    """Independent values of Student's t with 2 degrees of freedom around a level."""
    return 5 + rng.standard_t(2, (n, 1))


def load(rng: np.random.Generator, n: int) -> F64:
    """The load of a processor every 5 minutes: a day, spikes that last some rows, and saturation at 0 and 1."""
    spikes = np.convolve((rng.random(n) < 0.01) * rng.exponential(0.6, n), 0.6 ** np.arange(12))[:n]
    base = 0.35 + 0.2 * shape(rng, n, 288) + 0.05 * autoregressive(rng, n, 0.6) + spikes
    return np.clip(base, 0, 1)[:, None]


def busy(rng: np.random.Generator, n: int) -> F64:
    """A load that jobs keep at 1 for a while, and that is near 0 otherwise."""
    working = autoregressive(rng, n, 0.98) > 1
    return np.clip(np.where(working, 1.02, 0.05) + 0.04 * rng.standard_normal(n), 0, 1)[:, None]


def daily(rng: np.random.Generator, n: int) -> F64:
    """Days with a season of a week, a year, and a trend."""
    weather = autoregressive(rng, n, 0.5, rng.normal(0, 3, n))
    return (100 + 0.02 * np.arange(n) + 10 * shape(rng, n, 7) + 8 * wave(n, 365) + weather)[:, None]


def exchange(rng: np.random.Generator, n: int) -> F64:
    """Eight rates that walk together, with volatility that changes."""
    together = rng.standard_normal((n, 1)) + rng.standard_normal((n, 8))
    volatility = np.exp(0.5 * autoregressive(rng, n, 0.98, rng.normal(0, 0.2, n)))[:, None]
    return np.exp(np.cumsum(0.004 * volatility * together, axis=0))


def returns(rng: np.random.Generator, n: int) -> F64:
    """Independent changes with volatility that clusters."""
    return (rng.standard_normal(n) * np.exp(0.5 * autoregressive(rng, n, 0.98, rng.normal(0, 0.2, n))))[:, None]


def day(rng: np.random.Generator, n: int) -> F64:
    """Hours with a season of a day."""
    return (3 * shape(rng, n, 24) + autoregressive(rng, n, 0.8))[:, None]


def steps(rng: np.random.Generator, n: int) -> F64:
    """A value that stays exactly constant and changes in one of a hundred rows."""
    return np.cumsum((rng.random(n) < 0.01) * rng.normal(0, 5, n))[:, None]


def switch(rng: np.random.Generator, n: int) -> F64:
    """Two levels, with a switch in one of fifty rows and a little noise."""
    return (np.cumsum(rng.random(n) < 0.02) % 2)[:, None] * 4.0 + 0.05 * rng.standard_normal((n, 1))


def quantised(rng: np.random.Generator, n: int) -> F64:
    """A slow autoregression that a sensor rounds coarsely."""
    return np.round(autoregressive(rng, n, 0.98) / 2)[:, None]


def leading(rng: np.random.Generator, n: int) -> F64:
    """Three channels: the second follows the first by 3 rows, the third is a mean of both."""
    first = autoregressive(rng, n, 0.9)
    second = np.roll(first, 3) + 0.3 * rng.standard_normal(n)
    return np.stack([first, second, 0.5 * (np.roll(first, 1) + second) + 0.3 * rng.standard_normal(n)], axis=1)


def temperature(rng: np.random.Generator, n: int) -> F64:
    """Hourly temperatures: a year, a day whose size follows the year, and weather."""
    year = wave(n, 8766)
    weather = autoregressive(rng, n, 0.985, rng.normal(0, 0.6, n))
    return (10 + 8 * year + (3 + 2 * year) * wave(n, 24) + weather)[:, None]


def machine(rng: np.random.Generator, n: int) -> F64:
    """Vibration every 10 s: an oscillation of varying size while the machine runs, noise while it stands."""
    running = np.repeat(rng.random(n // 600 + 1) < 0.7, 600)[:n]
    swing = np.sin(2 * np.pi * np.cumsum(0.11 + 0.004 * rng.standard_normal(n)))
    size = 1 + 0.3 * autoregressive(rng, n, 0.99, rng.normal(0, 0.14, n))
    return (np.where(running, swing * size, 0) + 0.2 * rng.standard_normal(n))[:, None]


def resonance(rng: np.random.Generator, n: int) -> F64:
    """An autoregression of order 2 that oscillates with about 12 rows, three channels."""
    out = np.zeros((n, 3))
    for i in range(2, n):
        out[i] = 1.7 * out[i - 1] - 0.95 * out[i - 2] + rng.standard_normal(3)
    return out


def tank(rng: np.random.Generator, n: int) -> F64:
    """A level that falls at a changing rate and is filled when it is low."""
    out, level = np.empty(n), 80.0
    use = np.abs(1 + 0.5 * wave(n, 24) + 0.3 * rng.standard_normal(n))
    for i in range(n):
        level = 95 + rng.normal() if level < 20 else level - use[i]
        out[i] = level
    return out[:, None]


def solar(rng: np.random.Generator, n: int) -> F64:
    """Hourly power of the sun: exactly 0 by night, with clouds by day."""
    cloud = 1 / (1 + np.exp(-autoregressive(rng, n, 0.9)))
    return (np.maximum(0, -np.cos(2 * np.pi * np.arange(n) / 24)) * (0.3 + 0.7 * cloud))[:, None]


def smoothed(rng: np.random.Generator, n: int) -> F64:
    """A random walk seen through noise: the best forecast is an exponential mean."""
    return (np.cumsum(0.3 * rng.standard_normal(n)) + rng.standard_normal(n))[:, None]


def views(rng: np.random.Generator, n: int) -> F64:
    """Page views of hours: log-normal, day and week, and days that go viral."""
    viral = np.convolve((rng.random(n) < 0.002) * rng.exponential(2, n), 0.9 ** np.arange(60))[:n]
    usual = 4 + 0.4 * shape(rng, n, 24) + 0.3 * shape(rng, n, 168)
    return np.exp(usual + viral + 0.15 * autoregressive(rng, n, 0.5))[:, None]


def grid(rng: np.random.Generator, n: int) -> F64:
    """Half-hourly demand with day and week, two channels, slow weather."""
    weather = autoregressive(rng, n, 0.995, rng.normal(0, 0.1, n))
    own = [shape(rng, n, 48) + 0.7 * shape(rng, n, 336) + 0.15 * autoregressive(rng, n, 0.9) for _ in range(2)]
    return 30 + 4 * (np.stack(own, axis=1) + 0.3 * weather[:, None])


def drifting(rng: np.random.Generator, n: int) -> F64:
    """A day whose profile, size and noise change slowly."""
    mixed = 0.5 + 0.5 * wave(n, 4000)
    turned = mixed * shape(rng, n, 24) + (1 - mixed) * shape(rng, n, 24)
    return (3 * turned + (0.5 + mixed) * rng.standard_normal(n))[:, None]
