"""Declaration of metrics on one registry: names get the prefix `freshet_`, and a deleted model's series are dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.common.names import ModelKey
from service.observe.histograms import Histogram, Series

# Bucket bounds: seconds, seconds, norms, rows, labels.
LATENCY_S = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 5)
FRESHNESS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2, 3, 5, 10, 30)
NORMS = tuple(10.0**e for e in range(-6, 4))
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
STALENESS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)

OF_MODEL = "tenant", "model"  # labels of a per-model metric; a ModelKey holds their values

Metric = Counter | Gauge | Histogram
M = TypeVar("M", Counter, Gauge, Histogram)
R = TypeVar("R")


class Declare:
    """Makes metrics on a registry and remembers which are per model. A label `model` makes a metric per model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._by_model: list[Metric] = []
        self._records: list[dict[ModelKey, Any]] = []

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """Declare a counter. Prometheus appends `_total` to the name if it lacks it."""
        return self._noted(Counter(f"freshet_{name}", text, labels, registry=self.registry), labels)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """Declare a gauge."""
        return self._noted(Gauge(f"freshet_{name}", text, labels, registry=self.registry), labels)

    def histogram(self, name: str, text: str, bounds: Sequence[float]) -> Series:
        """Declare a histogram without labels; returns its only series."""
        return self.histogram_by((), name, text, bounds).labels()

    def histogram_by(self, labels: Sequence[str], name: str, text: str, bounds: Sequence[float]) -> Histogram:
        """Declare a histogram with labels."""
        made = Histogram(f"freshet_{name}", text, labels, bounds)
        self.registry.register(made)
        return self._noted(made, labels)

    def by_model(self, make: Callable[[ModelKey], R]) -> Callable[[ModelKey], R]:
        """Return a function from a model to its record, made once: looking up labels costs more than counting."""
        records: dict[ModelKey, R] = {}
        self._records.append(records)

        def of(key: ModelKey) -> R:
            record = records.get(key)
            if record is None:
                record = records[key] = make(key)
            return record

        return of

    def forget(self, key: ModelKey) -> None:
        """Drop every series of a deleted model, so that names that come and go do not pile up."""
        for records in self._records:
            records.pop(key, None)
        for metric in self._by_model:
            metric.remove_by_labels(dict(zip(OF_MODEL, key, strict=True)))

    def _noted(self, made: M, labels: Sequence[str]) -> M:
        if "model" in labels:
            self._by_model.append(made)
        return made


def children(record: type[R], group: object, key: ModelKey) -> R:
    """Make a dataclass whose fields are the model's children of the group's metrics of the same names."""
    found = {field.name: getattr(group, field.name).labels(*key) for field in fields(record)}  # type: ignore[arg-type]
    return record(**found)
