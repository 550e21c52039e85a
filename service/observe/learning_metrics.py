"""Metrics of the way back: trainers, verdicts, and how soon labels reach service."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import Counter, Gauge

from service.common.names import ModelKey
from service.observe.declaring import FRESHNESS_S, LATENCY_S, OF_MODEL, Declare, children
from service.observe.histograms import Series


@dataclass(frozen=True, slots=True)
class BacklogMetrics:
    """One model's children of TrainerMetrics."""

    backlog: Gauge
    backlog_seconds: Gauge
    learn_every: Gauge
    learning_seconds: Counter


class TrainerMetrics:
    """Trainer processes and the backlog of each model."""

    def __init__(self, declare: Declare) -> None:
        self.trainer_ready = declare.gauge("trainer_ready", "1 while every trainer process accepts journal entries.")
        self.restarts = declare.counter("trainer_restarts_total", "Restarts of a trainer process.")
        self.checkpoint_position = declare.gauge(
            "checkpoint_position_bytes", "Journal position that the trainer's last checkpoint covers."
        )
        self.backlog = declare.gauge("trainer_backlog_entries", "Durable journal entries not yet learned.", *OF_MODEL)
        self.backlog_seconds = declare.gauge(
            "trainer_backlog_seconds", "Expected seconds of learning in the backlog.", *OF_MODEL
        )
        self.learn_every = declare.gauge(
            "learn_every", "One label in this many is learned; more than 1 means overload.", *OF_MODEL
        )
        self.learning_seconds = declare.counter(
            "learning_seconds_total", "Trainer time spent on the model: learning, and making versions.", *OF_MODEL
        )
        self.of = declare.by_model(lambda key: children(BacklogMetrics, self, key))


@dataclass(frozen=True, slots=True)
class VersionMetrics:
    """One model's children of PublishingMetrics."""

    rollbacks: Counter
    evidence: Gauge
    parity_error: Gauge
    freshness: Series
    unjudged: Gauge


class PublishingMetrics:
    """Verdicts, versions made, and how soon labels reach service."""

    VERDICTS = ("publish", "veto", "cooling_down", "unchanged", "stale", "no_space")

    def __init__(self, declare: Declare) -> None:
        self.verdicts = declare.counter("verdicts_total", "Verdicts on candidates, by kind.", *OF_MODEL, "kind")
        self.rollbacks = declare.counter(
            "rollbacks_total", "Returns to an earlier version, automatic or on request.", *OF_MODEL
        )
        self.evidence = declare.gauge(
            "gate_evidence",
            "Evidence at the last verdict that the candidate is worse than the anchor; about 1 if it is not. A "
            "candidate is vetoed from worse_evidence on.",
            *OF_MODEL,
        )
        self.export_seconds = declare.histogram(
            "export_seconds", "Time to write a version's ONNX file and check it.", LATENCY_S
        )
        self.parity_error = declare.gauge(
            "parity_error", "Largest difference between ONNX and NumPy answers, in scaled units.", *OF_MODEL
        )
        self.freshness = declare.histogram_by(
            OF_MODEL,
            "label_to_serving_seconds",
            "Time from a label on disk to serving weights that were judged with it.",
            FRESHNESS_S,
        )
        self.unjudged = declare.gauge(
            "unjudged_seconds", "Time the oldest durable label has waited to be learned and judged.", *OF_MODEL
        )
        self.fresh = declare.gauge("fresh_target_seconds", "Setting fresh_s: a model whose labels wait longer is late.")
        self.of = declare.by_model(self._of)

    def _of(self, key: ModelKey) -> VersionMetrics:
        for kind in self.VERDICTS:
            self.verdicts.labels(*key, kind)
        return children(VersionMetrics, self, key)
