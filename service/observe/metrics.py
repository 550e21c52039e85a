"""What Prometheus sees. Base units, prefix `freshet_`, no stream id as a label. Declared here, set where it happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge

from model.fold.histories import CONFLICT, LATE, NON_FINITE, RANGE, UNKNOWN
from model.fold.windows import NO_LABEL, SHAPE
from service.common.errors import Reason
from service.common.names import ModelKey, Origin
from service.observe.histograms import Histogram, Series
from service.trainer.quarantine import SKIPPED

LATENCY_S = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 5)
FRESHNESS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2, 3, 5, 10, 30)
NORMS = tuple(10.0**e for e in range(-6, 4))
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
OF_MODEL = "tenant", "model"  # labels of what is counted by model; a ModelKey is their values
STALENESS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)

QUARANTINED = (LATE, UNKNOWN, CONFLICT, RANGE, NON_FINITE, NO_LABEL, SHAPE, SKIPPED)  # why, all of them
VERDICTS = ("publish", "veto", "cooling_down", "unchanged", "stale", "no_space")

Made = TypeVar("Made", bound="Counter | Gauge | Histogram")


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

        self.build = gauge("build_info", "1; its labels say what runs.", "version", "python", "numpy", "onnxruntime")
        self.ready = gauge("ready", "1 while streams are taken, as /readyz says.")
        self.disk_free = gauge("disk_free_bytes", "Room on the disk of the data directory.")
        self.queue_seconds = histogram("message_queue_seconds", "From a tick's arrival to its batch.", LATENCY_S)
        self.compute_seconds = histogram("step_seconds", "Wall time of one batched model step.", LATENCY_S)
        self.large_step_wait_seconds = histogram(
            "large_step_wait_seconds", "A large step's wait for its turn in the thread beside the loop.", LATENCY_S
        )
        self.total_seconds = histogram("message_seconds", "From a tick's arrival to its forecast's sending.", LATENCY_S)
        self.sessions = gauge("sessions_loaded", "Versions in memory, ready to answer.")
        self.session_load_seconds = histogram(
            "session_load_seconds", "Loading the version that serves, for a tick of a model that was idle.", LATENCY_S
        )
        self.batch_rows = histogram("batch_rows", "Ticks in one batched model step.", ROWS)
        self.open_streams = gauge("streams_open", "Streams with a call open.", *OF_MODEL)
        self.streams = gauge("streams", "Streams known, in memory or on disk.", *OF_MODEL)
        self.resident = gauge("streams_resident", "Streams in memory.", *OF_MODEL)
        self.evicted_streams = counter("streams_evicted_total", "Times an idle stream left memory.", *OF_MODEL)
        self.opened = counter("streams_opened_total", "Streams opened, by where their state came from.", "origin")
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
        self.states_rebuilt = counter("states_rebuilt_total", "Starts without states.db: streams were computed again.")
        self.strangers = counter("strangers_closed_total", "Connections closed: much sent, and no call let in.")
        self.cut_calls = counter("calls_cut_total", "Calls ended because their client did not read.")
        self.corrupt = counter("corrupt_total", "Damaged pieces of files that were done without.", "what")
        self.no_space = gauge("journal_no_space", "1 while a commit waits for the disk to have room.")
        self.disk_full = counter("disk_full_total", "Writes that found no room, tried again later.", "what")
        self.snapshot_seconds = histogram("snapshot_seconds", "One snapshot of stream states.", LATENCY_S)
        self.snapshot_position = gauge("snapshot_position_bytes", "Journal position that the last snapshot holds.")
        self.checkpoint_position = gauge(
            "checkpoint_position_bytes", "Journal position that the trainer's last checkpoint holds."
        )

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
        self.persistence = gauge(
            "loss_persistence",
            "What an answer without a network loses on the same labels: the present value; the running mean of a "
            "regression's labels; equal probabilities.",
            *OF_MODEL,
        )
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
        self.paused = gauge("learning_paused", "1 while learning is paused by hand.", *OF_MODEL)
        self.learn_every = gauge(
            "learn_every", "One in so many labels is learned now: more than 1 is overload.", *OF_MODEL
        )
        self.trainer_ready = gauge("trainer_ready", "1 while every trainer process takes in what is to be learned.")
        self.backlog = gauge("trainer_backlog_entries", "Durable journal entries not yet learned.", *OF_MODEL)
        self.backlog_seconds = gauge(
            "trainer_backlog_seconds", "Seconds of learning that the backlog is expected to take.", *OF_MODEL
        )
        self.learning_seconds = counter(
            "learning_seconds_total", "Time that trainers have worked for it: learning, and making versions.", *OF_MODEL
        )
        self.unjudged = gauge(
            "unjudged_seconds", "How long the oldest label on disk has waited to be learned and judged.", *OF_MODEL
        )
        self.fresh = gauge("fresh_target_seconds", "fresh_s: a model whose labels wait longer is behind.")
        self.restarts = counter("trainer_restarts_total", "Times a trainer process was started again.")

        self.version = gauge("version", "The version that serves.", *OF_MODEL)
        self.anchor = gauge(
            "version_anchor", "The version that proved itself last, which a rollback goes to.", *OF_MODEL
        )
        self.published = gauge(
            "published_timestamp_seconds", "When the version that serves went into service, since 1970.", *OF_MODEL
        )
        self.evidence = gauge(
            "gate_evidence",
            "Of the last verdict, for worse than the anchor: near 1; vetoed from worse_evidence on.",
            *OF_MODEL,
        )
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
        self.file_invalid = gauge("file_invalid", "1 while a file has changed and cannot be taken as it is.", "file")
        self.certificate_expiry = gauge(
            "certificate_expiry_timestamp_seconds", "When the server's certificate ends, since 1970.", "file"
        )
        self.quota_reached = counter("quota_reached_total", "Refusals, by quota of the tenant.", "tenant", "quota")
        self.revoked = counter("calls_revoked_total", "Calls ended because their token was good no longer.")
        self.denied = counter("calls_denied_total", "Calls not let in, by reason.", "reason")
        self.loop_lag = histogram("event_loop_lag_seconds", "How late a timer of the serving loop fires.", LATENCY_S)
        self._begin_at_zero()
        self._models: dict[ModelKey, ModelMetrics] = {}

    def _begin_at_zero(self) -> None:
        """Counters are there before they move: an increase from nothing is none to Prometheus."""
        for what in ("journal", "snapshot", "version", "checkpoint"):
            self.disk_full.labels(what)
        for what in ("version", "checkpoint", "stream"):
            self.corrupt.labels(what)
        for origin in Origin:
            self.opened.labels(origin.name.lower())
        for reason in ("unauthenticated", "forbidden"):
            self.denied.labels(reason)
        for refusal in Reason:
            self.refused_ticks.labels(refusal.name.lower())
            self.refused_labels.labels(refusal.name.lower())

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


class Counted(NamedTuple):
    """What a model's metrics count, for its own tenant. staleness: forecasts by bucket of STALENESS, and above all."""

    ticks: int
    learned: int
    backlog: int
    learn_every: int
    streams_open: int
    published: int
    vetoed: int
    rolled_back: int
    published_time: float  # seconds since 1970; 0: not by this server
    staleness: tuple[int, ...]
    unjudged_seconds: float  # for which the oldest label on disk has waited to be learned and judged


class ModelMetrics:
    """One model's children of the labelled metrics, and how progress reports of the trainer become counts.

    loss, persistence: those of the last report that had labels, mean scaled losses; None: none had.
    """

    def __init__(self, metrics: Metrics, key: ModelKey) -> None:
        self._metrics, self.key = metrics, key
        self.loss: float | None = None
        self.persistence: float | None = None
        self.ticks, self.repeated = metrics.ticks.labels(*key), metrics.repeated.labels(*key)
        self.labels, self.windows = metrics.labels.labels(*key), metrics.windows.labels(*key)
        self.repeated_windows, self.replayed = metrics.repeated_windows.labels(*key), metrics.replayed.labels(*key)
        self.staleness, self.freshness = metrics.staleness.labels(*key), metrics.freshness.labels(*key)
        self.open_streams, self.resident = metrics.open_streams.labels(*key), metrics.resident.labels(*key)
        self.evicted_streams = metrics.evicted_streams.labels(*key)
        self.streams, self.backlog = metrics.streams.labels(*key), metrics.backlog.labels(*key)
        self.backlog_seconds = metrics.backlog_seconds.labels(*key)
        self.learning_seconds, self.unjudged = metrics.learning_seconds.labels(*key), metrics.unjudged.labels(*key)
        self.version, self.anchor = metrics.version.labels(*key), metrics.anchor.labels(*key)
        self.published, self.paused = metrics.published.labels(*key), metrics.paused.labels(*key)
        self.learn_every, self.evidence = metrics.learn_every.labels(*key), metrics.evidence.labels(*key)
        self.parity_error = metrics.parity_error.labels(*key)
        self._begin_at_zero()
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
        self.resuming = False  # what the next report has in total was counted by a former server

    def _begin_at_zero(self) -> None:
        """As `Metrics._begin_at_zero`, of what is not made above."""
        m, key = self._metrics, self.key
        m.skipped.labels(*key)
        m.rollbacks.labels(*key)
        m.refused_updates.labels(*key, NON_FINITE)
        for kind in VERDICTS:
            m.verdicts.labels(*key, kind)
        for reason in QUARANTINED:
            m.quarantined.labels(*key, reason)

    def counted(self) -> Counted:
        """Where the counts of this server stand."""
        verdicts, key = self._metrics.verdicts, self.key
        return Counted(
            ticks=_int(self.ticks),
            learned=_int(self._totals["learned"]),
            backlog=_int(self.backlog),
            learn_every=max(1, _int(self.learn_every)),
            streams_open=_int(self.open_streams),
            published=_int(verdicts.labels(*key, "publish")),
            vetoed=_int(verdicts.labels(*key, "veto")),
            rolled_back=_int(self._metrics.rollbacks.labels(*key)),
            published_time=self.published._value.get(),
            staleness=self.staleness.counts,
            unjudged_seconds=next(iter(self.unjudged._child_samples())).value,
        )

    def stands(self, version: int, anchor: int, paused: bool) -> None:
        """The versions that count now, and whether learning is paused."""
        self.version.set(version)
        self.anchor.set(anchor)
        self.paused.set(paused)

    def learned(self, report: dict[str, Any]) -> None:
        """Take in one progress report (see `service.trainer.process.progress`). Totals that went back, after the
        trainer restarted from a checkpoint, count again only beyond what was counted."""
        self._count_all(report)
        self._observe(report)

    def _count_all(self, report: dict[str, Any]) -> None:
        m, key = self._metrics, self.key
        for name, child in self._totals.items():
            self._count(name, report[name], child)
        for reason, total in report["quarantined"].items():
            self._count(f"quarantined {reason}", total, m.quarantined.labels(*key, reason))
        for _ in report["refused"]:
            m.refused_updates.labels(*key, NON_FINITE).inc()
        self.resuming = False

    def _observe(self, report: dict[str, Any]) -> None:
        m, key = self._metrics, self.key
        m.in_quarantine.labels(*key).set(report["in_quarantine"])
        if report["losses"]:
            self.loss = sum(report["losses"]) / len(report["losses"])
            self.persistence = sum(report["persistence"]) / len(report["persistence"])
            m.loss.labels(*key).set(self.loss)
            m.persistence.labels(*key).set(self.persistence)
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

    def _count(self, name: str, total: int, counter: Counter) -> None:
        seen = self._last.get(name, 0)
        if not self.resuming:
            counter.inc(max(0, total - seen))
        self._last[name] = max(seen, total)


def _int(metric: Counter | Gauge) -> int:
    """A child's value. The library has no other way to read one; its own `collect` takes a hundred times as long."""
    return int(metric._value.get())
