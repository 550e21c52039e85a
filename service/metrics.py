"""What Prometheus sees. Base units, prefix `freshet_`, no stream id as a label. Declared here, set where it happens."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from math import inf
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

LATENCY_S = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 5)
FRESHNESS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2, 3, 5, 10, 30)
NORMS = tuple(10.0**e for e in range(-6, 4))
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
OF_MODEL = "tenant", "model"  # the labels of what is counted by model
STALENESS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)

ModelKey = tuple[str, str]  # values of OF_MODEL
Made = TypeVar("Made", bound="Counter | Gauge | Histogram")


class Series:
    """One series of a histogram, for the event loop alone. The library's own, with locks, costs five times as much, and
    every message is observed five times."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        """Count a value in the first bucket whose bound is not below it."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def observe_all(self, values: NDArray[Any]) -> None:
        """`observe` for each of an array of integers."""
        kinds, counts = np.unique(values, return_counts=True)
        for value, count in zip(kinds.tolist(), counts.tolist(), strict=True):
            self._counts[bisect_left(self._bounds, value)] += count
        self._sum += float(values.sum())

    def cumulative(self) -> tuple[list[tuple[str, float]], float]:
        """(bound, values up to it) of each bucket, and the sum of the values."""
        bounds = (floatToGoString(b) for b in (*self._bounds, inf))  # type: ignore[no-untyped-call]
        return list(zip(bounds, accumulate(self._counts), strict=True)), self._sum


class Histogram(Collector):
    """A histogram of Prometheus whose series are made once, by `labels`, and kept by whoever observes."""

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name, self._text, self._labels, self._bounds = name, text, labels, bounds
        self._series: dict[tuple[str, ...], Series] = {}

    def labels(self, *values: str) -> Series:
        """The series of these label values."""
        if values not in self._series:
            self._series[values] = Series(self._bounds)
        return self._series[values]

    def remove_by_labels(self, labels: Mapping[str, str]) -> None:
        """Drop every series that has all of these label values."""
        wanted = [(self._labels.index(name), value) for name, value in labels.items()]
        for values in [v for v in self._series if all(v[at] == value for at, value in wanted)]:
            del self._series[values]

    def collect(self) -> Iterable[Metric]:
        """What a scrape sees."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, series in self._series.items():
            buckets, total = series.cumulative()
            family.add_metric(values, buckets, total)
        return [family]


class Metrics:
    """All metrics, on the given registry: tests pass their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

        self._by_model: list[Counter | Gauge | Histogram] = []

        def noted(made: Made, labels: Sequence[str]) -> Made:
            self._by_model += [made] * ("model" in labels)
            return made

        def counter(name: str, text: str, *labels: str) -> Counter:
            return noted(Counter(f"freshet_{name}", text, labels, registry=registry), labels)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return noted(Gauge(f"freshet_{name}", text, labels, registry=registry), labels)

        def histogram_by(labels: Sequence[str], name: str, text: str, bounds: Sequence[float]) -> Histogram:
            made = Histogram(f"freshet_{name}", text, labels, bounds)
            registry.register(made)
            return noted(made, labels)

        def histogram(name: str, text: str, bounds: Sequence[float]) -> Series:
            return histogram_by((), name, text, bounds).labels()

        self.queue_seconds = histogram("message_queue_seconds", "From a tick's arrival to its batch.", LATENCY_S)
        self.compute_seconds = histogram("step_seconds", "Wall time of one batched model step.", LATENCY_S)
        self.total_seconds = histogram("message_seconds", "From a tick's arrival to its forecast's sending.", LATENCY_S)
        self.batch_rows = histogram("batch_rows", "Ticks in one batched model step.", ROWS)
        self.open_streams = gauge("streams_open", "Streams with a call open.", *OF_MODEL)
        self.streams = gauge("streams", "Streams known, in memory or on disk.", *OF_MODEL)
        self.resident = gauge("streams_resident", "Streams in memory.", *OF_MODEL)
        self.evicted_streams = counter("streams_evicted_total", "Times an idle stream left memory.", *OF_MODEL)
        self.ticks = counter("ticks_total", "Ticks answered with a new forecast.", *OF_MODEL)
        self.repeated = counter("ticks_repeated_total", "Ticks answered again from the ring.", *OF_MODEL)
        self.refused_ticks = counter("ticks_refused_total", "Ticks refused, by reason.", "reason")
        self.labels = counter("labels_total", "Labels taken in, repeated ones too.", *OF_MODEL)
        self.windows = counter("windows_total", "Labelled windows taken in.", *OF_MODEL)
        self.repeated_windows = counter("windows_repeated_total", "Windows sent again, not taken in again.", *OF_MODEL)
        self.replayed = counter("quarantine_replayed_total", "Items sent into learning after all.", *OF_MODEL)
        self.refused_labels = counter("labels_refused_total", "Labels and windows refused at the door.", "reason")
        self.staleness = histogram_by(
            OF_MODEL, "staleness_labels", "Labels arrived and not judged, per forecast.", STALENESS
        )

        self.durable_lag = gauge("journal_undurable_entries", "Journal entries appended and not yet on disk.")
        self.durable_seconds = histogram(
            "journal_durable_lag_seconds", "From an entry's append to the disk, the oldest of each commit.", LATENCY_S
        )
        self.commit_seconds = histogram("journal_commit_seconds", "One group commit, fsync included.", LATENCY_S)
        self.journal_bytes = gauge("journal_position_bytes", "Durable end of the journal.")
        self.journal_size = gauge("journal_bytes", "Journal on disk.")
        self.dropped = counter("journal_segments_dropped_total", "Segments that nothing needed any more, deleted.")
        self.truncated = counter("journal_truncated_bytes_total", "Bytes of a torn tail cut off at start.")
        self.cut_calls = counter("calls_cut_total", "Calls ended because their client did not read.")
        self.corrupt = counter("corrupt_total", "Damaged pieces of files that were done without.", "what")
        self.no_space = gauge("journal_no_space", "1 while a commit waits for the disk to have room.")
        self.disk_full = counter("disk_full_total", "Writes that found no room, tried again later.", "what")
        self.snapshot_seconds = histogram("snapshot_seconds", "One snapshot of stream states.", LATENCY_S)

        self.updates = counter("learner_updates_total", "Weight updates.", *OF_MODEL)
        self.learned = counter("labels_learned_total", "Label vectors learned.", *OF_MODEL)
        self.thinned = counter("labels_thinned_total", "Label vectors left out under overload.", *OF_MODEL)
        self.skipped = counter("entries_skipped_total", "Journal entries left out of learning by record.", *OF_MODEL)
        self.voided = counter("labels_voided_total", "Labels cut off by a gap, a reset or an eviction.", *OF_MODEL)
        self.learned_windows = counter("windows_learned_total", "Labelled windows learned.", *OF_MODEL)
        self.unlearned = counter("labels_unlearned_total", "Labels and windows that came while paused.", *OF_MODEL)
        self.duplicates = counter("labels_duplicate_total", "Labels that said again what was known.", *OF_MODEL)
        self.quarantined = counter(
            "labels_quarantined_total", "Labels and windows put into quarantine, by reason.", *OF_MODEL, "reason"
        )
        self.in_quarantine = gauge("quarantine_items", "Labels and windows in quarantine.", *OF_MODEL)
        self.quarantine_dropped = counter("quarantine_dropped_total", "Items that made room for newer ones.", *OF_MODEL)
        self.evicted = counter("contexts_evicted_total", "Learning contexts dropped for newer ones.", *OF_MODEL)
        self.clipped = counter("learner_clipped_total", "Updates whose gradient was clipped.", *OF_MODEL)
        self.drifts = counter("drift_total", "Times the candidate's loss had risen for good.", *OF_MODEL)
        self.refused_updates = counter("learner_refused_total", "Updates refused, by reason.", *OF_MODEL, "reason")
        self.loss = gauge("loss_prequential", "Mean scaled loss of the candidate, last chunk.", *OF_MODEL)
        self.score = gauge(
            "score_candidate", "Clipped score 0..1 of the candidate, where the anchor was scored.", *OF_MODEL
        )
        self.anchor_score = gauge("score_anchor", "Clipped score 0..1 of the anchor on the same labels.", *OF_MODEL)
        self.gradient_norm = histogram_by(
            (*OF_MODEL, "layer"), "gradient_norm", "Gradient norm before the clip, by layer.", NORMS
        )
        self.lag_norm = gauge("gradient_lag_norm", "Norm of dL/dh so many ticks back in the window.", *OF_MODEL, "lag")
        self.update_ratio = histogram_by(
            OF_MODEL, "update_ratio", "Norm of an update over the norm of the weights.", NORMS
        )
        self.saturated = gauge("gates_saturated_ratio", "Gates (of an rnn, units) that pass no gradient.", *OF_MODEL)
        self.backlog = gauge("trainer_backlog_entries", "Durable journal entries not yet learned.", *OF_MODEL)
        self.restarts = counter("trainer_restarts_total", "Times the trainer process was started again.")

        self.version = gauge("version", "The version that serves.", *OF_MODEL)
        self.verdicts = counter("verdicts_total", "Verdicts on candidates.", *OF_MODEL, "kind")
        self.rollbacks = counter("rollbacks_total", "Returns to an earlier version, by hand too.", *OF_MODEL)
        self.export_seconds = histogram("export_seconds", "Making a version's ONNX file and checking it.", LATENCY_S)
        self.parity_error = gauge("parity_error", "Largest ONNX against NumPy difference, scaled units.", *OF_MODEL)
        self.freshness = histogram_by(
            OF_MODEL,
            "label_to_serving_seconds",
            "From a label on disk to weights in service that were judged with it.",
            FRESHNESS_S,
        )
        self.loop_lag = histogram("event_loop_lag_seconds", "How late a timer of the serving loop fires.", LATENCY_S)
        self._models: dict[ModelKey, ModelMetrics] = {}

    def of(self, key: ModelKey) -> ModelMetrics:
        """The model's children, made once: looking labels up costs more than counting."""
        if key not in self._models:
            self._models[key] = ModelMetrics(self, key)
        return self._models[key]

    def forget(self, key: ModelKey) -> None:
        """Drop every series of a model that is gone: names that come and go must not pile up."""
        self._models.pop(key, None)
        for metric in self._by_model:
            metric.remove_by_labels(dict(zip(OF_MODEL, key, strict=True)))


class ModelMetrics:
    """One model's children of the labelled metrics, and how progress reports of the trainer become counts."""

    def __init__(self, metrics: Metrics, key: ModelKey) -> None:
        self._metrics, self.key = metrics, key
        self.ticks, self.repeated = metrics.ticks.labels(*key), metrics.repeated.labels(*key)
        self.labels, self.windows = metrics.labels.labels(*key), metrics.windows.labels(*key)
        self.repeated_windows, self.replayed = metrics.repeated_windows.labels(*key), metrics.replayed.labels(*key)
        self.staleness, self.freshness = metrics.staleness.labels(*key), metrics.freshness.labels(*key)
        self.open_streams, self.resident = metrics.open_streams.labels(*key), metrics.resident.labels(*key)
        self.evicted_streams = metrics.evicted_streams.labels(*key)
        self.streams, self.backlog = metrics.streams.labels(*key), metrics.backlog.labels(*key)
        self.version, self.parity_error = metrics.version.labels(*key), metrics.parity_error.labels(*key)
        self._totals = {
            "updates": metrics.updates.labels(*key),
            "learned": metrics.learned.labels(*key),
            "thinned": metrics.thinned.labels(*key),
            "voided": metrics.voided.labels(*key),
            "clipped": metrics.clipped.labels(*key),
            "drifts": metrics.drifts.labels(*key),
            "evicted": metrics.evicted.labels(*key),
            "windows": metrics.learned_windows.labels(*key),
            "unlearned": metrics.unlearned.labels(*key),
            "duplicates": metrics.duplicates.labels(*key),
            "quarantine_dropped": metrics.quarantine_dropped.labels(*key),
        }
        self._last: dict[str, int] = {}

    def learned(self, report: dict[str, Any]) -> None:
        """Take in one progress report (see `service.trainer.process.progress`). Totals that went back, after the
        trainer restarted from a checkpoint, count again only beyond what was counted."""
        m, key = self._metrics, self.key
        for name, child in self._totals.items():
            self._count(name, report[name], child)
        for reason, total in report["quarantined"].items():
            self._count(f"quarantined {reason}", total, m.quarantined.labels(*key, reason))
        m.in_quarantine.labels(*key).set(report["in_quarantine"])
        if report["losses"]:
            m.loss.labels(*key).set(sum(report["losses"]) / len(report["losses"]))
        if report["scores"]:
            candidate, anchor = zip(*report["scores"], strict=True)
            m.score.labels(*key).set(sum(candidate) / len(candidate))
            m.anchor_score.labels(*key).set(sum(anchor) / len(anchor))
        for norm in report["norms"]:
            m.gradient_norm.labels(*key, "all").observe(norm)
        for layers in report["by_layer"]:
            for layer, norm in layers.items():
                m.gradient_norm.labels(*key, layer).observe(norm)
        for ratio in report["ratios"]:
            m.update_ratio.labels(*key).observe(ratio)
        for lag, norm in enumerate(report["lags"]):
            m.lag_norm.labels(*key, str(lag)).set(norm)
        if report["saturated"] is not None:
            m.saturated.labels(*key).set(report["saturated"])
        for _ in report["refused"]:
            m.refused_updates.labels(*key, "non-finite").inc()

    def _count(self, name: str, total: int, counter: Counter) -> None:
        seen = self._last.get(name, 0)
        counter.inc(max(0, total - seen))
        self._last[name] = max(seen, total)
