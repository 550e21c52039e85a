"""Estimation of the period of a series from its first rows, to suggest a season. Nothing uses it by itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from model.offline.baselines import Array, Values

ROWS = 8192  # rows that are read, at most
LEAST_ROWS = 64
LEAST_PERIODS = 4  # that the rows must hold
LEAST_CORRELATION = 0.3
OVER_SURROUNDING = 2.0  # the peak is at least this many times the median of the lags around it
NEARLY = 0.75  # a shorter lag whose correlation is this share of the highest one is the period, the other a multiple
CHANCE = 5.0  # the peak is at least this many deviations of a correlation by chance
REFINED = 4  # multiples of the period that make it more exact
ROUNDING = 1e-9
CLIP = 5.0  # of differences, in robust deviations: a few outliers must not decide
SMOOTHING = (1, 2, 4, 8, 16, 32, 64)  # rows averaged before differencing, so that noise does not hide a long period
LAGS_OF_SMOOTHING = 4  # the shortest period is this many times the smoothing, whose own correlation ends at twice
ROWS_OF_SMOOTHING = 64  # and the rows are at least this many times it


def period(x: Values, longest: int) -> int:
    """Return the period of a series in rows, or 0 if none is clear.

    x: (N, C), not modified, of which the first ROWS rows are read; NaN is missing. longest: the longest period, rows.
    Differences of the series, smoothed over some numbers of rows, are clipped, and their autocorrelation is averaged
    over the channels. A period is a peak above LEAST_CORRELATION that is OVER_SURROUNDING times its surroundings, in
    the whole and in each half of the rows, beyond what chance gives. Of several, the shortest counts.
    """
    values = filled(np.asarray(x[:ROWS], np.float64))
    if len(values) < LEAST_ROWS or not values.shape[1]:
        return 0
    found = (_clear(d, width, longest) for width, d in _differences(values))
    return min((lag for lag in found if lag), default=0)


def filled(values: Array) -> Array:
    """Return a copy (N, C) with each missing value replaced by the last one before it.

    Channels that are constant, or a straight line but for rounding, are left out.
    Values missing at the start are replaced by the first one.
    """
    made = []
    for column in values.T:
        known = np.flatnonzero(~np.isnan(column))
        if len(known) > 1:
            last = np.searchsorted(known, np.arange(len(column)), side="right") - 1
            held = column[known[np.maximum(last, 0)]]
            if np.ptp(np.diff(held)) > ROUNDING * np.abs(held).max():
                made.append(held)
    return np.stack(made, axis=1) if made else np.zeros((len(values), 0))


def _differences(values: Array) -> Iterator[tuple[int, Array]]:
    """Yield each smoothing with the clipped differences of the smoothed rows, (N − 2·width, C), mean 0."""
    tamed = _clipped(np.diff(values, axis=0)).cumsum(axis=0)  # so that smoothing does not spread an outlier
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(tamed, axis=0)])
    for width in SMOOTHING:
        if len(values) >= ROWS_OF_SMOOTHING * width:
            means = (sums[width:] - sums[:-width]) / width
            yield width, _clipped(means[width:] - means[:-width])


def _clipped(d: Array) -> Array:
    """Return differences (N, C) less their median, clipped at CLIP robust deviations, then less their mean."""
    d = d - np.median(d, axis=0)
    deviation = np.median(np.abs(d), axis=0) * 1.4826
    spread = d.std(axis=0)
    deviation = np.where(deviation > 1e-6 * spread, deviation, spread)  # most are equal but for rounding
    clipped = np.clip(d, -CLIP * deviation, CLIP * deviation)
    centred: Array = clipped - clipped.mean(axis=0)
    return centred


def _clear(d: Array, width: int, longest: int) -> int:
    """Return the period of differences d (N, C) that were smoothed over `width` rows, in rows; 0 if none is clear."""
    limit, shortest = min(longest, len(d) // LEAST_PERIODS), LAGS_OF_SMOOTHING * width if width > 1 else 2
    if limit < shortest:
        return 0
    whole = correlation(d, min(REFINED * limit, len(d) // 2))
    # Deviation of a correlation by chance, from the correlation of neighbours (Bartlett 1946).
    chance = float(np.sqrt((2 * (whole[: 2 * width + 1] ** 2).sum() - 1) / len(d)))
    least = max(LEAST_CORRELATION, CHANCE * chance)
    peaks = [lag for lag in range(shortest, limit + 1) if _is_peak(whole, lag, least)]
    if not peaks:
        return 0
    highest = max(whole[lag] for lag in peaks)
    lag = next(lag for lag in peaks if whole[lag] >= NEARLY * highest)
    halves = [correlation(part, lag) for part in np.array_split(d, 2)]
    return _refined(whole, lag) if all(half[lag] > LEAST_CORRELATION for half in halves) else 0


def _refined(values: Array, lag: int) -> int:
    """Return a period corrected by the peaks at its multiples, which are sharper."""
    better = float(lag)
    for multiple in range(2, len(values) // lag + 1):
        begin = round(better * multiple) - max(1, lag // 8)
        near = values[begin : begin + 2 * max(1, lag // 8) + 1]
        if len(near) <= 2 * max(1, lag // 8) or near.max() < LEAST_CORRELATION:
            break
        better = (begin + int(np.argmax(near))) / multiple
    return round(better)


def correlation(d: Array, limit: int) -> Array:
    """Return the autocorrelation at lags 0 to limit, (limit + 1,), the mean over the channels of d (N, C), mean 0."""
    size = 1 << int(len(d) + limit).bit_length()
    spectrum = np.fft.rfft(d, size, axis=0)
    products = np.fft.irfft(spectrum * spectrum.conj(), size, axis=0)[: limit + 1]
    pairs = (len(d) - np.arange(limit + 1)) / len(d)  # as if each lag had as many pairs
    energy = products[0]
    each = np.divide(products, energy, out=np.zeros_like(products), where=energy > 0) / pairs[:, None]
    mean: Array = each.mean(axis=1)
    return mean


def _is_peak(values: Array, lag: int, least: float) -> bool:
    """Return whether a lag is the highest around it, at least `least`, and clearly above its surroundings."""
    near = values[lag - max(1, lag // 8) : lag + max(1, lag // 8) + 1]
    if values[lag] < least or values[lag] < near.max():
        return False
    around = values[max(1, lag // 2) : lag + lag // 2 + 1]
    return bool(values[lag] >= OVER_SURROUNDING * np.median(around))
