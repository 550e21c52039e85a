"""The text of /metrics: series whose values are as they were at the last scrape keep their lines.

Most series are of models, and most models are idle. To compare a value takes a hundredth of what its line takes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from service.observe.histograms import Histogram, Series

Labels = tuple[str, ...]  # values
Family = Callable[[Mapping[Labels, Any]], Metric]  # of these series


class Registry(CollectorRegistry):
    """Prometheus's registry, which also renders itself, to the text that `generate_latest` makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: dict[Collector, Callable[[], str]] = {}  # in the order of registration
        self._rendering = threading.Lock()

    def register(self, collector: Collector) -> None:
        """Add a collector. Raises ValueError for a name that is there already."""
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
        """What a scrape gets, UTF-8. May run in any thread; one at a time."""
        with self._rendering:
            return "".join([part() for part in list(self._parts.values())]).encode()


class Kept:
    """The part of one metric, with the lines of each series as they were written last."""

    def __init__(
        self, series: Callable[[], Mapping[Labels, Any]], mark: Callable[[Any], object], family: Family
    ) -> None:
        """series: those that there are now; mark: equal to a former one where a series' lines are."""
        self._series, self._mark, self._family = series, mark, family
        self._head = _text([family({})])
        self._lines: dict[Labels, tuple[object, str]] = {}  # by label values: the mark they were made at, lines

    def text(self) -> str:
        """The part as it is now."""
        former, self._lines = self._lines, {}
        for labels, series in self._series().items():
            mark = self._mark(series)
            kept = former.get(labels)
            if kept is None or kept[0] != mark:
                kept = mark, _text([self._family({labels: series})]).removeprefix(self._head)
            self._lines[labels] = kept
        return self._head + "".join([lines for _, lines in self._lines.values()])


def children_of(metric: Counter | Gauge) -> Callable[[], Mapping[Labels, Any]]:
    """The children by label values, copied under the metric's lock when asked for."""

    def children() -> Mapping[Labels, Any]:
        with metric._lock:
            return {tuple(labels): child for labels, child in metric._metrics.items()}

    return children


def values_of(child: Any) -> object:
    """The values of a child's samples."""
    return [sample.value for sample in child._samples()]


def family_of(metric: Counter | Gauge) -> Family:
    """What a scrape sees of some children of a metric."""

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
    """Families that were made already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
