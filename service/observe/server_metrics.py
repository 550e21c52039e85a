"""Metrics of the server as a whole: process, disk, access, journal."""

from __future__ import annotations

from service.observe.declaring import LATENCY_S, Declare


class ProcessMetrics:
    """The process: what runs, whether it is ready, and how late its loop is."""

    def __init__(self, declare: Declare) -> None:
        self.build = declare.gauge(
            "build_info", "Always 1; the labels name the running versions.", "version", "python", "numpy", "onnxruntime"
        )
        self.ready = declare.gauge("ready", "1 while the server accepts streams, as /readyz reports.")
        self.loop_lag = declare.histogram(
            "event_loop_lag_seconds", "Delay of a timer on the serving event loop.", LATENCY_S
        )


class StorageMetrics:
    """Disk, snapshots and damaged files. `what` names the kind of file."""

    def __init__(self, declare: Declare) -> None:
        self.disk_free = declare.gauge("disk_free_bytes", "Free space on the disk of the data directory.")
        self.disk_full = declare.counter(
            "disk_full_total", "Writes that failed because the disk was full; each is retried.", "what"
        )
        self.corrupt = declare.counter("corrupt_total", "Damaged pieces of files that the server skipped.", "what")
        self.states_rebuilt = declare.counter(
            "states_rebuilt_total", "Starts without states.db: every stream was recomputed from the journal."
        )
        self.snapshot_seconds = declare.histogram("snapshot_seconds", "Duration of one snapshot.", LATENCY_S)
        self.snapshot_position = declare.gauge(
            "snapshot_position_bytes", "Journal position that the last snapshot covers."
        )
        for what in ("journal", "snapshot", "version", "checkpoint"):
            self.disk_full.labels(what)
        for what in ("version", "checkpoint", "stream"):
            self.corrupt.labels(what)


class AccessMetrics:
    """Files of tokens and certificates, and the calls and connections that they keep out."""

    def __init__(self, declare: Declare) -> None:
        self.file_invalid = declare.gauge(
            "file_invalid", "1 while a changed file is invalid and its former content stays in force.", "file"
        )
        self.certificate_expiry = declare.gauge(
            "certificate_expiry_timestamp_seconds", "Expiry of the server's certificate, since 1970.", "file"
        )
        self.denied = declare.counter("calls_denied_total", "Calls without a valid token or role.", "reason")
        self.revoked = declare.counter("calls_revoked_total", "Calls ended because their token expired or was revoked.")
        self.quota_reached = declare.counter(
            "quota_reached_total", "Refusals because a tenant reached a quota.", "tenant", "quota"
        )
        self.strangers = declare.counter(
            "strangers_closed_total", "Connections closed for sending much before any call was admitted."
        )
        self.cut_calls = declare.counter("calls_cut_total", "Calls ended because the client did not read.")
        for reason in ("unauthenticated", "forbidden"):
            self.denied.labels(reason)


class JournalMetrics:
    """The journal: appended, committed, kept and deleted."""

    def __init__(self, declare: Declare) -> None:
        self.durable_lag = declare.gauge("journal_undurable_entries", "Journal entries appended and not yet on disk.")
        self.durable_seconds = declare.histogram(
            "journal_durable_lag_seconds", "Time from append to disk of the oldest entry of each commit.", LATENCY_S
        )
        self.commit_seconds = declare.histogram(
            "journal_commit_seconds", "Duration of a group commit, fsync included.", LATENCY_S
        )
        self.journal_bytes = declare.gauge("journal_position_bytes", "Journal position of the last durable byte.")
        self.journal_size = declare.gauge("journal_bytes", "Size of the journal on disk.")
        self.no_space = declare.gauge("journal_no_space", "1 while a commit waits for free disk space.")
        self.dropped = declare.counter(
            "journal_segments_dropped_total", "Segments deleted because nothing needs them any more."
        )
        self.truncated = declare.counter(
            "journal_truncated_bytes_total", "Bytes of an incomplete last write cut off at start."
        )
