"""The learner's metrics, and how a trainer's progress reports become counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from prometheus_client import Counter, Gauge

from service.common.names import ModelKey
from service.observe.declaring import NORMS, OF_MODEL, Declare
from service.observe.reports import Report

REFUSED = "non-finite"  # why the learner refuses an update; it has no other reason


class Compared(NamedTuple):
    """A shadow and its source on the same labels: mean scaled losses, and those of an answer without a network."""

    labels: int
    loss: float
    persistence: float
    source_loss: float
    source_persistence: float


class LearnerMetrics:
    """Learning, as the trainer's reports describe it. `of(key)` takes in the reports of one model."""

    def __init__(self, declare: Declare, quarantined: Sequence[str]) -> None:
        """quarantined: values of the label `reason` of the quarantine."""
        self._reasons = quarantined
        self._labels(declare)
        self._quarantine(declare)
        self._updates(declare)
        self._losses(declare)
        self._errors(declare)
        self.of = declare.by_model(self._of)

    def _labels(self, declare: Declare) -> None:
        self.learned = declare.counter("labels_learned_total", "Label vectors learned.", *OF_MODEL)
        self.learned_windows = declare.counter("windows_learned_total", "Labelled windows learned.", *OF_MODEL)
        self.thinned = declare.counter("labels_thinned_total", "Label vectors not learned under overload.", *OF_MODEL)
        self.voided = declare.counter("labels_voided_total", "Labels lost to a gap, a reset or an eviction.", *OF_MODEL)
        self.unlearned = declare.counter(
            "labels_unlearned_total", "Labels and windows not learned because learning was paused.", *OF_MODEL
        )
        self.duplicates = declare.counter(
            "labels_duplicate_total", "Labels that repeat a known label with the same values.", *OF_MODEL
        )

    def _quarantine(self, declare: Declare) -> None:
        self.quarantined = declare.counter(
            "labels_quarantined_total", "Labels and windows put into quarantine, by reason.", *OF_MODEL, "reason"
        )
        self.in_quarantine = declare.gauge("quarantine_items", "Labels and windows in quarantine.", *OF_MODEL)
        self.quarantine_dropped = declare.counter(
            "quarantine_dropped_total", "Oldest items dropped from a full quarantine.", *OF_MODEL
        )

    def _updates(self, declare: Declare) -> None:
        self.updates = declare.counter("learner_updates_total", "Weight updates.", *OF_MODEL)
        self.refused_updates = declare.counter(
            "learner_refused_total", "Weight updates refused, by reason.", *OF_MODEL, "reason"
        )
        self.clipped = declare.counter("learner_clipped_total", "Weight updates whose gradient was clipped.", *OF_MODEL)
        self.evicted = declare.counter(
            "contexts_evicted_total", "Learning contexts evicted to make room for newer ones.", *OF_MODEL
        )
        self.gradient_norm = declare.histogram_by(
            (*OF_MODEL, "layer"), "gradient_norm", "Gradient norm before clipping, by layer.", NORMS
        )
        self.lag_norm = declare.gauge(
            "gradient_lag_norm", "Norm of dL/dh of a layer, by ticks back in the window.", *OF_MODEL, "layer", "lag"
        )
        self.update_ratio = declare.histogram_by(
            OF_MODEL, "update_ratio", "Norm of an update divided by the norm of the weights.", NORMS
        )
        self.saturated = declare.gauge(
            "gates_saturated_ratio",
            "Share of a layer's gates, or of the units of a cell without gates, that pass no gradient.",
            *OF_MODEL,
            "layer",
        )

    def _losses(self, declare: Declare) -> None:
        self.loss = declare.gauge("loss_prequential", "Mean scaled loss of the candidate on the last chunk.", *OF_MODEL)
        self.persistence = declare.gauge(
            "loss_persistence",
            "Mean scaled loss on the same labels of an answer without a network: the present value; for a regression "
            "the running mean of its labels; for classes equal probabilities.",
            *OF_MODEL,
        )
        self.losses = declare.counter(
            "losses_total",
            "Sum of the scaled losses that the two gauges show, over all updates: the ratio of two rates compares the "
            "forecasters over any time.",
            *OF_MODEL,
            "forecaster",
        )
        self.score = declare.gauge(
            "score_candidate", "Clipped score 0..1 of the candidate on labels that the anchor was scored on.", *OF_MODEL
        )
        self.anchor_score = declare.gauge("score_anchor", "Clipped score 0..1 of the anchor, same labels.", *OF_MODEL)
        self.covered = declare.counter(
            "interval_covered_total", "Label values inside their prediction interval, by its level.", *OF_MODEL, "level"
        )
        self.asked = declare.counter(
            "interval_asked_total",
            "Label values that should be inside: the level times all values. Covered divided by asked is 1 where the "
            "coverage is right.",
            *OF_MODEL,
            "level",
        )
        self.experts = declare.gauge(
            "expert_weight", "Weight of each expert in the candidate's mixture; their sum is 1.", *OF_MODEL, "expert"
        )
        self.drifts = declare.counter("drift_total", "Lasting rises of the candidate's loss.", *OF_MODEL)

    def _errors(self, declare: Declare) -> None:
        def error(name: str, what: str) -> Gauge:
            text = f"Mean {what} in scaled units, over about the last 500 labels of the step ahead."
            return declare.gauge(name, text, *OF_MODEL, "step")

        self.errors = (
            error("error_squared", "square error of the candidate's forecasts"),
            error("error_absolute", "absolute error of the candidate's forecasts"),
            error("error_squared_persistence", "square error of persistence on the same labels"),
            error("error_absolute_persistence", "absolute error of persistence on the same labels"),
        )

    def _of(self, key: ModelKey) -> LearnerProgress:
        self.refused_updates.labels(*key, REFUSED)
        for reason in self._reasons:
            self.quarantined.labels(*key, reason)
        return LearnerProgress(self, key)


class LearnerProgress:
    """One model's learner metrics: turns the totals of its reports into counts.

    loss, persistence: mean scaled losses of the last report that had labels; None: no report had any.
    report: the last report that had gradients; None: none had any.
    compared: of a shadow; None: no label was learned by it and by its source.
    resuming: the next report's totals were counted by a former server.
    """

    def __init__(self, metrics: LearnerMetrics, key: ModelKey) -> None:
        self._metrics, self.key = metrics, key
        self.loss: float | None = None
        self.persistence: float | None = None
        self.report: Report | None = None
        self.compared: Compared | None = None
        self.resuming = False
        self.totals: dict[str, Counter] = {
            name: counter.labels(*key)
            for name, counter in (
                ("updates", metrics.updates),
                ("learned", metrics.learned),
                ("thinned", metrics.thinned),
                ("voided", metrics.voided),
                ("clipped", metrics.clipped),
                ("drifts", metrics.drifts),
                ("evicted", metrics.evicted),
                ("windows", metrics.learned_windows),
                ("unlearned", metrics.unlearned),
                ("duplicates", metrics.duplicates),
                ("quarantine_dropped", metrics.quarantine_dropped),
            )
        }
        self._last: dict[str, int] = {}

    def learned(self, report: Report) -> None:
        """Count one progress report.

        After a trainer restarts from a checkpoint its totals fall back; they count again only beyond the last seen.
        """
        self._count_all(report)
        self._observe_losses(report)
        self._observe_updates(report)
        self.report = report if report.lags else self.report

    def _count_all(self, report: Report) -> None:
        m, key = self._metrics, self.key
        for name, child in self.totals.items():
            self._count(name, report.totals.counts[name], child)
        for reason, total in report.totals.quarantined.items():
            self._count(f"quarantined {reason}", total, m.quarantined.labels(*key, reason))
        m.refused_updates.labels(*key, REFUSED).inc(report.refused)
        m.in_quarantine.labels(*key).set(report.totals.in_quarantine)
        self.resuming = False

    def _observe_losses(self, report: Report) -> None:
        m, key = self._metrics, self.key
        if report.losses:
            self.loss = sum(report.losses) / len(report.losses)
            self.persistence = sum(report.persistence) / len(report.persistence)
            m.loss.labels(*key).set(self.loss)
            m.persistence.labels(*key).set(self.persistence)
            for name, losses in (("candidate", report.losses), ("persistence", report.persistence)):
                m.losses.labels(*key, name).inc(sum(loss for loss in losses if math.isfinite(loss)))
        for level, asked in report.asked.items():
            m.asked.labels(*key, level).inc(asked)
            m.covered.labels(*key, level).inc(report.covered[level])
        if report.scores:
            candidate, anchor = zip(*report.scores, strict=True)
            m.score.labels(*key).set(sum(candidate) / len(candidate))
            m.anchor_score.labels(*key).set(sum(anchor) / len(anchor))
        for expert, weight in report.experts.items():
            m.experts.labels(*key, expert).set(weight)
        for step, means in report.errors.items():
            for gauge, mean in zip(m.errors, means, strict=True):
                gauge.labels(*key, str(step)).set(mean)

    def _observe_updates(self, report: Report) -> None:
        m, key = self._metrics, self.key
        for norm in report.norms:
            m.gradient_norm.labels(*key, "all").observe(norm)
        for layers in report.by_layer:
            for layer, norm in layers.items():
                m.gradient_norm.labels(*key, layer).observe(norm)
        for ratio in report.ratios:
            m.update_ratio.labels(*key).observe(ratio)
        for layer, lags in report.lags.items():
            for lag, norm in enumerate(lags):
                m.lag_norm.labels(*key, layer, str(lag)).set(norm)
        for layer, share in report.saturated.items():
            m.saturated.labels(*key, layer).set(share)

    def _count(self, name: str, total: int, counter: Counter) -> None:
        seen = self._last.get(name, 0)
        if not self.resuming:
            counter.inc(max(0, total - seen))
        self._last[name] = max(seen, total)
