"""Prometheus histograms for use on the event loop alone."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Series:
    """One series of a histogram, for the event loop alone.

    The library's own has locks and costs five times as much; every message is observed five times.
    """

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        """Count a value in the first bucket whose bound is at least the value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def observe_same(self, value: float, n: int) -> None:
        """Observe a value n times."""
        self._counts[bisect_left(self._bounds, value)] += n
        self._sum += value * n

    def observe_all(self, values: NDArray[Any]) -> None:
        """Observe every value of an array of integers."""
        buckets = np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._counts))
        self._counts = [before + more for before, more in zip(self._counts, buckets.tolist(), strict=True)]
        self._sum += float(values.sum())

    def mark(self) -> object:
        """Return a value that equals an earlier one if nothing was counted in between."""
        return tuple(self._counts), self._sum

    @property
    def counts(self) -> tuple[int, ...]:
        """The count of each bucket; the last counts values above every bound."""
        return tuple(self._counts)

    @property
    def bounds(self) -> Sequence[float]:
        """The upper bound of each bucket but the last."""
        return self._bounds

    def cumulative(self) -> tuple[list[tuple[str, float]], float]:
        """Return (bound, count of values up to it) per bucket, and the sum of all values."""
        bounds = (floatToGoString(b) for b in (*self._bounds, inf))  # type: ignore[no-untyped-call]
        return list(zip(bounds, accumulate(self._counts), strict=True)), self._sum


class Histogram(Collector):
    """A Prometheus histogram whose series `labels` makes once; observers keep them."""

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name, self._text, self._labelnames, self._bounds = name, text, labels, bounds
        self._series: dict[tuple[str, ...], Series] = {}

    def labels(self, *values: str) -> Series:
        """Return the series of these label values."""
        if values not in self._series:
            self._series[values] = Series(self._bounds)
        return self._series[values]

    def remove_by_labels(self, labels: Mapping[str, str]) -> None:
        """Drop every series with all of these label values."""
        wanted = [(self._labelnames.index(name), value) for name, value in labels.items()]
        for values in [v for v in self._series if all(v[at] == value for at, value in wanted)]:
            del self._series[values]

    def series(self) -> dict[tuple[str, ...], Series]:
        """Return a copy of the series by label values."""
        return self._series.copy()

    def family(self, series: Mapping[tuple[str, ...], Series]) -> Metric:
        """Return these series as a scrape sees them."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labelnames)
        for values, one in series.items():
            buckets, total = one.cumulative()
            family.add_metric(values, buckets, total)
        return family

    def collect(self) -> Iterable[Metric]:
        """Return all series as a scrape sees them."""
        return [self.family(self.series())]
