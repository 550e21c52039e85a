"""The text of /metrics. A series whose value has not changed since the last scrape keeps its rendered lines.

Most series belong to models, and most models are idle. Comparing a value costs a hundredth of rendering its line.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from service.observe.histograms import Histogram, Series

Labels = tuple[str, ...]  # label values
Family = Callable[[Mapping[Labels, Any]], Metric]  # series → metric


class Registry(CollectorRegistry):
    """A Prometheus registry that renders itself, to the same text as `generate_latest`."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: dict[Collector, Callable[[], str]] = {}  # in the order of registration
        self._rendering = threading.Lock()

    def register(self, collector: Collector) -> None:
        """Add a collector. Raises ValueError for a duplicate name."""
        super().register(collector)
        if isinstance(collector, Histogram):
            self._parts[collector] = Kept(collector.series, Series.mark, collector.family).text
        elif isinstance(collector, Counter | Gauge) and collector._labelnames:
            self._parts[collector] = Kept(children_of(collector), values_of, family_of(collector)).text
        else:
            self._parts[collector] = lambda: _text(collector.collect())

    def unregister(self, collector: Collector) -> None:
        """Remove a collector. Raises KeyError."""
        super().unregister(collector)
        del self._parts[collector]

    def text(self) -> bytes:
        """Return the text of a scrape, UTF-8. Thread-safe; renders one scrape at a time."""
        with self._rendering:
            return "".join([part() for part in list(self._parts.values())]).encode()


class Kept:
    """One metric's part of the text, with the last rendered lines of each series."""

    def __init__(
        self, series: Callable[[], Mapping[Labels, Any]], mark: Callable[[Any], object], family: Family
    ) -> None:
        """series: returns the present series. mark: of a series; equal marks mean equal lines."""
        self._series, self._mark, self._family = series, mark, family
        self._head = _text([family({})])
        self._lines: dict[Labels, tuple[object, str]] = {}  # label values → (mark, lines)

    def text(self) -> str:
        """Return the present text."""
        former, self._lines = self._lines, {}
        for labels, series in self._series().items():
            mark = self._mark(series)
            kept = former.get(labels)
            if kept is None or kept[0] != mark:
                kept = mark, _text([self._family({labels: series})]).removeprefix(self._head)
            self._lines[labels] = kept
        return self._head + "".join([lines for _, lines in self._lines.values()])


def children_of(metric: Counter | Gauge) -> Callable[[], Mapping[Labels, Any]]:
    """Return a function that copies the metric's children, by label values, under its lock."""

    def children() -> Mapping[Labels, Any]:
        with metric._lock:
            return {tuple(labels): child for labels, child in metric._metrics.items()}

    return children


def values_of(child: Any) -> object:
    """Return the values of a child's samples."""
    return [sample.value for sample in child._samples()]


def family_of(metric: Counter | Gauge) -> Family:
    """Return a function from some children of the metric to what a scrape sees of them."""

    def family(children: Mapping[Labels, Any]) -> Metric:
        [made] = metric.describe()
        for labels, child in children.items():
            named = dict(zip(metric._labelnames, labels, strict=True))
            for sample in child._samples():
                made.add_sample(metric._name + sample.name, named | sample.labels, sample.value, sample.timestamp)
        return made

    return family


def _text(families: Iterable[Metric]) -> str:
    return generate_latest(_Collected(families)).decode()


class _Collected(Collector):
    """A collector of families made elsewhere."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
