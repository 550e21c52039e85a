"""A server's /metrics as numbers; rates, means and quantiles between two scrapes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families


class Sample(NamedTuple):
    """The value of one series in a scrape."""

    labels: Mapping[str, str]
    value: float


class Scrape:
    """The samples of one exposition, by name."""

    def __init__(self, samples: Iterable[tuple[str, Sample]]) -> None:
        self._samples: dict[str, list[Sample]] = {}
        for name, sample in samples:
            self._samples.setdefault(name, []).append(sample)

    @classmethod
    def parse(cls, text: str) -> Scrape:
        """Read the Prometheus text format. Raises ValueError for other text."""
        families = text_string_to_metric_families(text)
        return cls((s.name, Sample(s.labels, s.value)) for family in families for s in family.samples)

    def total(self, name: str, **labels: str) -> float | None:
        """Return the sum of the series of a name that have these labels; None if there are none."""
        values = [value for had, value in self._samples.get(name, ()) if labels.items() <= had.items()]
        return sum(values) if values else None

    def highest(self, name: str, **labels: str) -> float | None:
        """Return the highest of the series that `total` adds; None if there are none."""
        values = [value for had, value in self._samples.get(name, ()) if labels.items() <= had.items()]
        return max(values, default=None)

    def values(self, name: str, label: str) -> set[str]:
        """Return the values that a label has among the series of a name."""
        return {labels[label] for labels, _ in self._samples.get(name, ()) if label in labels}

    def buckets(self, name: str, **labels: str) -> list[tuple[float, float]]:
        """Return a histogram summed over all series with these labels: (upper bound, cumulative count), ascending."""
        counts: dict[float, float] = {}
        for had, value in self._samples.get(f"{name}_bucket", ()):
            if labels.items() <= had.items():
                bound = float(had["le"])
                counts[bound] = counts.get(bound, 0.0) + value
        return sorted(counts.items())

    @cached_property
    def by_model(self) -> dict[tuple[str, str], Scrape]:
        """The samples labelled with a model, for each model by tenant and name."""
        parts: dict[tuple[str, str], list[tuple[str, Sample]]] = {}
        for name, samples in self._samples.items():
            for sample in samples:
                if "model" in sample.labels:
                    key = sample.labels.get("tenant", ""), sample.labels["model"]
                    parts.setdefault(key, []).append((name, sample))
        return {key: Scrape(samples) for key, samples in parts.items()}


NOTHING = Scrape(())


@dataclass(frozen=True, slots=True)
class Between:
    """The difference of two scrapes, `seconds` apart.

    A series that was missing before started at 0, and so did one that is lower now, because its server was restarted.
    """

    before: Scrape
    now: Scrape
    seconds: float

    def increase(self, name: str, **labels: str) -> float | None:
        """Return the increase of a counter; None if it does not exist."""
        now = self.now.total(name, **labels)
        return None if now is None else _grown(self.before.total(name, **labels) or 0.0, now)

    def rate(self, name: str, **labels: str) -> float | None:
        """Return the increase of a counter per second; None if it does not exist or no time has passed."""
        grown = self.increase(name, **labels)
        return grown / self.seconds if grown is not None and self.seconds else None

    def mean(self, name: str, **labels: str) -> float | None:
        """Return the mean of a histogram's observations; None without any."""
        count = self.increase(f"{name}_count", **labels)
        return (self.increase(f"{name}_sum", **labels) or 0.0) / count if count else None

    def quantile(self, q: float, name: str, **labels: str) -> float | None:
        """Return a quantile of a histogram's observations; None without any."""
        before, now = dict(self.before.buckets(name, **labels)), self.now.buckets(name, **labels)
        if any(count < before.get(bound, 0.0) for bound, count in now):
            before = {}
        return quantile([(bound, count - before.get(bound, 0.0)) for bound, count in now], q)


def _grown(before: float, now: float) -> float:
    return now if now < before else now - before


def quantile(buckets: Sequence[tuple[float, float]], q: float) -> float | None:
    """Return a quantile of a histogram, interpolated within its bucket as Prometheus' histogram_quantile does.

    buckets: (upper bound, cumulative count), ascending, the last bound infinite. None without observations; the
    largest finite bound if the quantile lies beyond it.
    """
    total = buckets[-1][1] if buckets else 0
    if not total:
        return None
    low, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= q * total:
            return low if math.isinf(bound) else low + (bound - low) * (q * total - below) / (count - below)
        low, below = bound, count
    return low
