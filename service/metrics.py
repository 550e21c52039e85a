"""What Prometheus sees. Base units, prefix `freshet_`, no stream id as a label. Declared here, set where it happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LATENCY_S = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 5)
FRESHNESS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2, 3, 5, 10, 30)
NORMS = tuple(10.0**e for e in range(-6, 4))
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
STALENESS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)


class Metrics:
    """All metrics, on the given registry: tests pass their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"freshet_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"freshet_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(f"freshet_{name}", text, labels, registry=registry, buckets=buckets)

        self.queue_seconds = histogram("message_queue_seconds", "From a tick's arrival to its batch.", LATENCY_S)
        self.compute_seconds = histogram("step_seconds", "Wall time of one batched model step.", LATENCY_S)
        self.total_seconds = histogram("message_seconds", "From a tick's arrival to its forecast's sending.", LATENCY_S)
        self.batch_rows = histogram("batch_rows", "Ticks in one batched model step.", ROWS)
        self.open_streams = gauge("streams_open", "Streams with a call open.")
        self.streams = gauge("streams", "Streams known.", "model")
        self.ticks = counter("ticks_total", "Ticks answered with a new forecast.", "model")
        self.repeated = counter("ticks_repeated_total", "Ticks answered again from the ring.", "model")
        self.refused_ticks = counter("ticks_refused_total", "Ticks refused, by reason.", "reason")
        self.staleness = histogram(
            "staleness_labels", "Labels arrived and not judged, per forecast.", STALENESS, "model"
        )

        self.durable_lag = gauge("journal_undurable_entries", "Journal entries appended and not yet on disk.")
        self.durable_seconds = histogram(
            "journal_durable_lag_seconds", "From an entry's append to the disk, the oldest of each commit.", LATENCY_S
        )
        self.commit_seconds = histogram("journal_commit_seconds", "One group commit, fsync included.", LATENCY_S)
        self.journal_bytes = gauge("journal_position_bytes", "Durable end of the journal.")
        self.truncated = counter("journal_truncated_bytes_total", "Bytes of a torn tail cut off at start.")
        self.snapshot_seconds = histogram("snapshot_seconds", "One snapshot of stream states.", LATENCY_S)

        self.updates = counter("learner_updates_total", "Weight updates.", "model")
        self.learned = counter("labels_learned_total", "Label vectors learned.", "model")
        self.thinned = counter("labels_thinned_total", "Label vectors left out under overload.", "model")
        self.voided = counter("labels_voided_total", "Labels cut off by a gap, a reset or an eviction.", "model")
        self.evicted = counter("contexts_evicted_total", "Learning contexts dropped for newer ones.", "model")
        self.clipped = counter("learner_clipped_total", "Updates whose gradient was clipped.", "model")
        self.refused_updates = counter("learner_refused_total", "Updates refused, by reason.", "model", "reason")
        self.loss = gauge("loss_prequential", "Mean scaled loss of the candidate, last chunk.", "model")
        self.score = gauge(
            "score_candidate", "Clipped score 0..1 of the candidate, where the anchor was scored.", "model"
        )
        self.anchor_score = gauge("score_anchor", "Clipped score 0..1 of the anchor on the same labels.", "model")
        self.gradient_norm = histogram(
            "gradient_norm", "Gradient norm before the clip, by layer.", NORMS, "model", "layer"
        )
        self.lag_norm = gauge("gradient_lag_norm", "Norm of dL/dh so many ticks back in the window.", "model", "lag")
        self.update_ratio = histogram("update_ratio", "Norm of an update over the norm of the weights.", NORMS, "model")
        self.saturated = gauge("gates_saturated_ratio", "Sigmoid gates outside 0.05..0.95.", "model")
        self.backlog = gauge("trainer_backlog_entries", "Durable journal entries not yet learned.", "model")
        self.restarts = counter("trainer_restarts_total", "Times the trainer process was started again.")

        self.version = gauge("version", "The version that serves.", "model")
        self.verdicts = counter("verdicts_total", "Verdicts on candidates.", "model", "kind")
        self.export_seconds = histogram("export_seconds", "Making a version's ONNX file and checking it.", LATENCY_S)
        self.parity_error = gauge("parity_error", "Largest ONNX against NumPy difference, scaled units.", "model")
        self.freshness = histogram(
            "label_to_serving_seconds", "From a label on disk to weights in service that were judged with it.",
            FRESHNESS_S, "model",
        )  # fmt: skip
        self.loop_lag = histogram("event_loop_lag_seconds", "How late a timer of the serving loop fires.", LATENCY_S)
        self._models: dict[str, ModelMetrics] = {}

    def of(self, model: str) -> ModelMetrics:
        """The model's children, made once: looking labels up costs more than counting."""
        if model not in self._models:
            self._models[model] = ModelMetrics(self, model)
        return self._models[model]


class ModelMetrics:
    """One model's children of the labelled metrics, and how progress reports of the trainer become counts."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics, self.model = metrics, model
        self.ticks, self.repeated = metrics.ticks.labels(model), metrics.repeated.labels(model)
        self.staleness, self.freshness = metrics.staleness.labels(model), metrics.freshness.labels(model)
        self.streams, self.backlog = metrics.streams.labels(model), metrics.backlog.labels(model)
        self.version, self.parity_error = metrics.version.labels(model), metrics.parity_error.labels(model)
        self._totals = {
            "updates": metrics.updates.labels(model),
            "learned": metrics.learned.labels(model),
            "thinned": metrics.thinned.labels(model),
            "voided": metrics.voided.labels(model),
            "clipped": metrics.clipped.labels(model),
            "evicted": metrics.evicted.labels(model),
        }
        self._last: dict[str, int] = {}

    def learned(self, report: dict[str, Any]) -> None:
        """Take in one progress report (see `service.trainer.process.progress`). Totals that went back, after the
        trainer restarted from a checkpoint, count again only beyond what was counted."""
        m, model = self._metrics, self.model
        for name, child in self._totals.items():
            seen = self._last.get(name, 0)
            child.inc(max(0, report[name] - seen))
            self._last[name] = max(seen, report[name])
        if report["losses"]:
            m.loss.labels(model).set(sum(report["losses"]) / len(report["losses"]))
        if report["scores"]:
            candidate, anchor = zip(*report["scores"], strict=True)
            m.score.labels(model).set(sum(candidate) / len(candidate))
            m.anchor_score.labels(model).set(sum(anchor) / len(anchor))
        for norm in report["norms"]:
            m.gradient_norm.labels(model, "all").observe(norm)
        for layers in report["by_layer"]:
            for layer, norm in layers.items():
                m.gradient_norm.labels(model, layer).observe(norm)
        for ratio in report["ratios"]:
            m.update_ratio.labels(model).observe(ratio)
        for lag, norm in enumerate(report["lags"]):
            m.lag_norm.labels(model, str(lag)).set(norm)
        if report["saturated"] is not None:
            m.saturated.labels(model).set(report["saturated"])
        for _ in report["refused"]:
            m.refused_updates.labels(model, "non-finite").inc()
