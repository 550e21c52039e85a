"""Metrics of the live path: ticks, streams, versions in service, and accepted labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import Counter, Gauge

from service.common.errors import Reason
from service.observe.declaring import LATENCY_S, OF_MODEL, ROWS, STALENESS, Declare, children
from service.observe.histograms import Series


@dataclass(frozen=True, slots=True)
class ServedMetrics:
    """One model's children of ServingMetrics."""

    open_streams: Gauge
    streams: Gauge
    resident: Gauge
    evicted_streams: Counter
    ticks: Counter
    repeated: Counter
    staleness: Series
    version: Gauge
    anchor: Gauge
    published: Gauge
    paused: Gauge
    skipped: Counter

    def stands(self, version: int, anchor: int, paused: bool) -> None:
        """Set the versions in force and whether learning is paused."""
        self.version.set(version)
        self.anchor.set(anchor)
        self.paused.set(paused)


class ServingMetrics:
    """Ticks and their answers, streams, and the versions in service."""

    def __init__(self, declare: Declare, origins: Sequence[str]) -> None:
        """origins: values of the label `origin`."""
        self._steps(declare)
        self._streams(declare, origins)
        self._models(declare)
        self.of = declare.by_model(lambda key: children(ServedMetrics, self, key))
        self.forget = declare.forget

    def _steps(self, declare: Declare) -> None:
        self.queue_seconds = declare.histogram(
            "message_queue_seconds", "Time from a tick's arrival to the start of its batch.", LATENCY_S
        )
        self.compute_seconds = declare.histogram("step_seconds", "Wall time of one batched model step.", LATENCY_S)
        self.large_step_wait_seconds = declare.histogram(
            "large_step_wait_seconds", "Time a large step waits for the thread beside the event loop.", LATENCY_S
        )
        self.total_seconds = declare.histogram(
            "message_seconds", "Time from a tick's arrival to the sending of its forecast.", LATENCY_S
        )
        self.batch_rows = declare.histogram("batch_rows", "Ticks in one batched model step.", ROWS)
        self.sessions = declare.gauge("sessions_loaded", "Versions in memory, ready to answer.")
        self.session_load_seconds = declare.histogram(
            "session_load_seconds", "Time to load the serving version for a tick of an idle model.", LATENCY_S
        )

    def _streams(self, declare: Declare, origins: Sequence[str]) -> None:
        self.open_streams = declare.gauge("streams_open", "Streams with an open call.", *OF_MODEL)
        self.streams = declare.gauge("streams", "Known streams, in memory or on disk.", *OF_MODEL)
        self.resident = declare.gauge("streams_resident", "Streams in memory.", *OF_MODEL)
        self.evicted_streams = declare.counter("streams_evicted_total", "Idle streams removed from memory.", *OF_MODEL)
        self.opened = declare.counter("streams_opened_total", "Streams opened, by origin of their state.", "origin")
        self.ticks = declare.counter("ticks_total", "Ticks answered with a new forecast.", *OF_MODEL)
        self.repeated = declare.counter("ticks_repeated_total", "Repeated ticks answered from memory.", *OF_MODEL)
        self.refused_ticks = declare.counter("ticks_refused_total", "Ticks refused, by reason.", "reason")
        self.staleness = declare.histogram_by(
            OF_MODEL, "staleness_labels", "Labels arrived and not yet judged, per forecast.", STALENESS
        )
        for origin in origins:
            self.opened.labels(origin)
        begin_reasons(self.refused_ticks)

    def _models(self, declare: Declare) -> None:
        self.version = declare.gauge("version", "Number of the serving version.", *OF_MODEL)
        self.anchor = declare.gauge(
            "version_anchor", "Number of the anchor: the last proven version, the target of a rollback.", *OF_MODEL
        )
        self.published = declare.gauge(
            "published_timestamp_seconds", "Time at which the serving version went into service, since 1970.", *OF_MODEL
        )
        self.paused = declare.gauge("learning_paused", "1 while an administrator has paused learning.", *OF_MODEL)
        self.skipped = declare.counter(
            "entries_skipped_total", "Journal entries excluded from learning by a Skip record.", *OF_MODEL
        )


@dataclass(frozen=True, slots=True)
class AcceptedMetrics:
    """One model's children of IntakeMetrics."""

    accepted_labels: Counter
    windows: Counter
    repeated_windows: Counter
    replayed: Counter


class IntakeMetrics:
    """Labels and windows accepted for learning, or refused."""

    def __init__(self, declare: Declare) -> None:
        self.accepted_labels = declare.counter("labels_total", "Labels accepted, repeated ones included.", *OF_MODEL)
        self.windows = declare.counter("windows_total", "Labelled windows accepted.", *OF_MODEL)
        self.repeated_windows = declare.counter(
            "windows_repeated_total", "Windows sent again and not accepted a second time.", *OF_MODEL
        )
        self.replayed = declare.counter(
            "quarantine_replayed_total", "Quarantined items sent into learning on request.", *OF_MODEL
        )
        self.refused_labels = declare.counter(
            "labels_refused_total", "Labels and windows refused on arrival, by reason.", "reason"
        )
        begin_reasons(self.refused_labels)
        self.of = declare.by_model(lambda key: children(AcceptedMetrics, self, key))


def begin_reasons(refused: Counter) -> None:
    """Make a child for each reason of a refusal."""
    for reason in Reason:
        refused.labels(reason.name.lower())
