"""The dashboard's panels: what an operator looks at, and the queries behind it."""

from collections.abc import Sequence
from dataclasses import dataclass

WINDOW = "$__rate_interval"  # Grafana's: at least four scrapes
MINE = 'tenant=~"$tenant", model=~"$model"'
OURS = "and on (instance, job) freshet_ready"  # of metrics that every Python process has
NAMED = "{{tenant}}/{{model}}"  # how a model's curve is named

Query = tuple[str, str]  # PromQL, and how its curves are named


@dataclass(frozen=True)
class Panel:
    """One picture. unit: Grafana's name of it; log: a logarithmic axis."""

    title: str
    text: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: str = "timeseries"  # stat, bargauge, heatmap of curves, heatmap of a histogram
    width: int = 8
    log: bool = False


def rate(metric: str, by: str = "tenant, model", where: str = MINE) -> str:
    """How fast a counter grows, per second."""
    return f"sum by ({by}) (rate({metric}{{{where}}}[{WINDOW}]))"


def quantile(q: float, metric: str, by: str = "", where: str = "") -> str:
    """Of a histogram's observations in the window."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({q:g}, sum by ({labels}) (rate({metric}_bucket{{{where}}}[{WINDOW}])))"


def mean(metric: str, by: str = "tenant, model", where: str = MINE) -> str:
    """Of a histogram's observations in the window."""
    return f"{rate(f'{metric}_sum', by, where)} / {rate(f'{metric}_count', by, where)}"


def gauge(metric: str, how: str = "max", by: str = "tenant, model", where: str = MINE) -> str:
    """A gauge by its labels, whichever server tells it."""
    return f"{how} by ({by}) ({metric}{{{where}}})"


def quantiles(metric: str, *qs: float) -> list[Query]:
    """Several of them, of all servers together."""
    return [(quantile(q, metric), f"p{100 * q:g}") for q in qs]


def rates(*metrics: str, suffix: str = "_total", prefix: str = "freshet_") -> list[Query]:
    """Several counters of the chosen models together, each named as it is called."""
    return [(rate(f"{prefix}{name}{suffix}", by=""), name) for name in metrics]


SERVICE = [
    Panel(
        "Ready", "1: streams are taken. 0: /readyz says why not.", [("min(freshet_ready)", "")], kind="stat", width=4
    ),
    Panel(
        "Trainer", "1: what is durable is being learned.", [("min(freshet_trainer_ready)", "")], kind="stat", width=4
    ),
    Panel("Open streams", "With a call open.", [(f"sum(freshet_streams_open{{{MINE}}})", "")], kind="stat", width=4),
    Panel("Ticks", "Answered per second.", [(rate("freshet_ticks_total", by=""), "")], "ops", "stat", 4),
    Panel("Learned", "Labels per second.", [(rate("freshet_labels_learned_total", by=""), "")], "ops", "stat", 4),
    Panel("Version", "What runs.", [("sum by (version) (freshet_build_info)", "{{version}}")], kind="stat", width=4),
]

LATENCY = [
    Panel(
        "Forecast latency", "From a tick's arrival to its forecast's sending.",
        quantiles("freshet_message_seconds", 0.5, 0.99, 0.999), "s", log=True,
    ),
    Panel(
        "Where the time goes, p99",
        "Waiting for a batch, a large step's for its turn, the model's step, and the event loop's own lateness.",
        [
            (quantile(0.99, "freshet_message_queue_seconds"), "queue"),
            (quantile(0.99, "freshet_large_step_wait_seconds"), "turn"),
            (quantile(0.99, "freshet_step_seconds"), "step"),
            (quantile(0.99, "freshet_event_loop_lag_seconds"), "event loop"),
        ],
        "s", log=True,
    ),
    Panel(
        "Forecast latency, all", "How many forecasts took how long.",
        [(f"sum by (le) (increase(freshet_message_seconds_bucket[{WINDOW}]))", "{{le}}")], "s", "histogram",
    ),
    Panel("Ticks in a step", "Mean batch.", [(mean("freshet_batch_rows", "", ""), "rows")]),
    Panel(
        "Calls", "Ended per second, by method and code.",
        [
            (
                f"sum by (grpc_method, grpc_code) (rate(grpc_server_handled_total[{WINDOW}]))",
                "{{grpc_method}} {{grpc_code}}",
            )
        ],
        "ops",
    ),
    Panel(
        "Messages", "Per second, by method: what clients sent, and what they were sent.",
        [
            (f"sum by (grpc_method) (rate(grpc_server_msg_received_total[{WINDOW}]))", "{{grpc_method}} received"),
            (f"sum by (grpc_method) (rate(grpc_server_msg_sent_total[{WINDOW}]))", "{{grpc_method}} sent"),
        ],
        "ops",
    ),
    Panel(
        "Open calls", "Begun and not ended; a stream is one call.",
        [("sum by (grpc_method) (grpc_server_started_total) - sum by (grpc_method) "
          "(sum without (grpc_code) (grpc_server_handled_total))", "{{grpc_method}}")],
    ),
]  # fmt: skip

STREAMS = [
    Panel("Ticks by model", "Answered with a new forecast.", [(rate("freshet_ticks_total"), NAMED)], "ops"),
    Panel(
        "Streams", "Known, in memory, open.",
        [
            (f"sum(freshet_streams{{{MINE}}})", "known"),
            (f"sum(freshet_streams_resident{{{MINE}}})", "in memory"),
            (f"sum(freshet_streams_open{{{MINE}}})", "open"),
        ],
    ),
    Panel(
        "Opened, by state", "Where a stream's state came from. Lost: its client is told.",
        [(f"sum by (origin) (rate(freshet_streams_opened_total[{WINDOW}]))", "{{origin}}")], "ops",
    ),
    Panel(
        "Refused ticks", "By reason.",
        [(f"sum by (reason) (rate(freshet_ticks_refused_total[{WINDOW}]))", "{{reason}}")], "ops",
    ),
    Panel(
        "Repeated and evicted", "Ticks answered again from what is kept, and idle streams that left memory.",
        rates("ticks_repeated", "streams_evicted"), "ops",
    ),
    Panel(
        "Staleness, p95", "Labels that had arrived and were not yet judged in the weights that answered.",
        [(quantile(0.95, "freshet_staleness_labels", "tenant, model", MINE), NAMED)],
    ),
]  # fmt: skip

LEARNING = [
    Panel(
        "Loss against persistence", "Below 1: better than the present value as forecast. Same labels, scaled units.",
        [(f"avg_over_time(freshet_loss_prequential{{{MINE}}}[5m]) / "
          f"avg_over_time(freshet_loss_persistence{{{MINE}}}[5m])", NAMED)],
    ),
    Panel(
        "Loss", "Of the candidate, before learning each label; and persistence's.",
        [(gauge("freshet_loss_prequential"), NAMED), (gauge("freshet_loss_persistence"), f"{NAMED} persistence")],
    ),
    Panel(
        "Candidate against anchor", "Clipped scores on the same labels, 0 best; what the gate compares.",
        [(gauge("freshet_score_candidate"), NAMED), (gauge("freshet_score_anchor"), f"{NAMED} anchor")],
    ),
    Panel(
        "What becomes of labels", "Per second, of the chosen models.",
        [
            *rates("labels_learned", "labels_thinned", "labels_voided", "labels_unlearned", "labels_duplicate"),
            *rates("labels_quarantined", "entries_skipped"),
        ],
        "ops",
    ),
    Panel("Updates", "Per second.", [(rate("freshet_learner_updates_total"), NAMED)], "ops"),
    Panel(
        "Label to serving, p95", "From a label on disk to weights in service that were judged with it.",
        [(quantile(0.95, "freshet_label_to_serving_seconds", "tenant, model", MINE), NAMED)], "s",
    ),
    Panel(
        "Backlog", "Durable journal entries not yet learned; and one in how many labels is learned now.",
        [(gauge("freshet_trainer_backlog_entries"), NAMED), (gauge("freshet_learn_every"), f"{NAMED} learn every")],
    ),
    Panel(
        "Learning time", "Seconds of the trainers' work per second, by model; and seconds that its backlog will take.",
        [
            (rate("freshet_learning_seconds_total"), NAMED),
            (gauge("freshet_trainer_backlog_seconds"), f"{NAMED} backlog"),
        ],
        "s",
    ),
    Panel(
        "Behind", "How long the oldest label on disk has waited to be learned and judged; beyond the target, an alert.",
        [(gauge("freshet_unjudged_seconds"), NAMED), ("max(freshet_fresh_target_seconds)", "target")], "s",
    ),
    Panel(
        "Labels and windows in", "From outside the stream, per second.",
        rates("labels", "windows", "windows_repeated", "windows_learned"), "ops",
    ),
    Panel(
        "Drift and refused updates", "In five minutes.",
        [
            (f"sum by (tenant, model) (increase(freshet_drift_total{{{MINE}}}[5m]))", f"{NAMED} drift"),
            (f"sum by (tenant, model) (increase(freshet_learner_refused_total{{{MINE}}}[5m]))", f"{NAMED} refused"),
        ],
    ),
    Panel("Learning paused", "By hand.", [(gauge("freshet_learning_paused"), NAMED)]),
    Panel("In quarantine", "Labels and windows kept for a look.", [(gauge("freshet_quarantine_items"), NAMED)]),
    Panel(
        "Quarantined, by reason", "Per second.",
        [(rate("freshet_labels_quarantined_total", "reason"), "{{reason}}")], "ops",
    ),
]  # fmt: skip

# Lags as three digits, because curves are ordered by their labels' text.
BY_LAG = gauge("freshet_gradient_lag_norm", by="lag")
for digits, zeros in (("(.)", "00$1"), ("(..)", "0$1")):
    BY_LAG = f'label_replace({BY_LAG}, "lag", "{zeros}", "lag", "{digits}")'

GRADIENT = [
    Panel(
        "Gradient norm, by layer", "Median before the clip. A layer near 0 does not learn.",
        [(quantile(0.5, "freshet_gradient_norm", "layer", MINE), "{{layer}}")], log=True,
    ),
    Panel(
        "Gradient by lag", "Norm of dL/dh so many ticks back from the newest label: how far back learning reaches.",
        [(BY_LAG, "{{lag}}")], kind="heatmap",
    ),
    Panel(
        "Gradient by lag, now", "The last report: falling fast to 0 means that long dependencies are not learned.",
        [(BY_LAG, "{{lag}}")], kind="bargauge",
    ),
    Panel(
        "Size of an update", "Norm of the update over the norm of the weights, p50 and p99.",
        [(quantile(q, "freshet_update_ratio", "", MINE), f"p{100 * q:g}") for q in (0.5, 0.99)], log=True,
    ),
    Panel(
        "Clipped updates", "Share whose gradient was above the spec's clip.",
        [(f"{rate('freshet_learner_clipped_total')} / {rate('freshet_learner_updates_total')}", NAMED)], "percentunit",
    ),
    Panel(
        "Saturated gates", "Share that passes no gradient.",
        [(gauge("freshet_gates_saturated_ratio"), NAMED)], "percentunit",
    ),
]  # fmt: skip

VERSIONS = [
    Panel(
        "Versions", "The one that serves, and the last that proved itself.",
        [(gauge("freshet_version"), NAMED), (gauge("freshet_version_anchor"), f"{NAMED} anchor")],
    ),
    Panel("Verdicts", "Per second, by kind.", [(rate("freshet_verdicts_total", "kind"), "{{kind}}")], "ops"),
    Panel(
        "Since the last publish", "How long the version that serves has served.",
        [(f"time() - {gauge('freshet_published_timestamp_seconds')}", NAMED)], "s",
    ),
    Panel(
        "Rollbacks", "In an hour, by hand too.",
        [(f"sum by (tenant, model) (increase(freshet_rollbacks_total{{{MINE}}}[1h]))", NAMED)],
    ),
    Panel(
        "Evidence against the candidate", "Near 1 while it is no worse than the anchor; vetoed from 10,000 on.",
        [(gauge("freshet_gate_evidence"), NAMED)], log=True,
    ),
    Panel(
        "Export and parity", "Making a version's ONNX file, p95; and its largest difference from NumPy, scaled units.",
        [(quantile(0.95, "freshet_export_seconds"), "export"), (gauge("freshet_parity_error"), f"{NAMED} parity")],
        log=True,
    ),
]  # fmt: skip

ACCESS = [
    Panel(
        "Calls not let in", "Per second: no good token, or a role that is too low.",
        [(f"sum by (reason) (rate(freshet_calls_denied_total[{WINDOW}]))", "{{reason}}")], "ops",
    ),
    Panel(
        "Quotas reached", "Refusals per second, by tenant and quota.",
        [(rate("freshet_quota_reached_total", "tenant, quota", 'tenant=~"$tenant"'), "{{tenant}} {{quota}}")], "ops",
    ),
    Panel(
        "Files not taken, calls ended",
        "1 while an access file or certificate has changed and is no good; calls ended in five minutes because their "
        "token was good no longer.",
        [
            ("max by (file) (freshet_file_invalid)", "{{file}} is no good"),
            ("sum(increase(freshet_calls_revoked_total[5m]))", "calls ended"),
        ],
    ),
]  # fmt: skip

DISK = [
    Panel(
        "Journal commits, p99", "One group commit; and from an entry's append to the disk.",
        [
            (quantile(0.99, "freshet_journal_commit_seconds"), "commit"),
            (quantile(0.99, "freshet_journal_durable_lag_seconds"), "append to disk"),
        ],
        "s", log=True,
    ),
    Panel(
        "Disk", "Journal, and room that is left.",
        [("max by (instance) (freshet_journal_bytes)", "journal"),
         ("min by (instance) (freshet_disk_free_bytes)", "free")],
        "bytes",
    ),
    Panel(
        "Journal growth", "Bytes made durable per second.",
        [(f"sum by (instance) (rate(freshet_journal_position_bytes[{WINDOW}]))", "{{instance}}")], "Bps",
    ),
    Panel(
        "To be read again after a crash", "Journal behind the last snapshot (serving) and checkpoint (trainer).",
        [
            ("sum(freshet_journal_position_bytes - freshet_snapshot_position_bytes)", "serving"),
            ("sum(freshet_journal_position_bytes - freshet_checkpoint_position_bytes)", "trainer"),
        ],
        "bytes",
    ),
    Panel(
        "Waiting for the disk", "Entries appended and not durable; 1 in `full` while there is no room.",
        [("sum(freshet_journal_undurable_entries)", "entries"), ("max(freshet_journal_no_space)", "full")],
    ),
    Panel(
        "Faults", "In five minutes: writes without room, damaged pieces done without, calls cut.",
        [
            ("sum by (what) (increase(freshet_disk_full_total[5m]))", "no room: {{what}}"),
            ("sum by (what) (increase(freshet_corrupt_total[5m]))", "damaged: {{what}}"),
            ("sum(increase(freshet_calls_cut_total[5m]))", "calls cut"),
        ],
    ),
]  # fmt: skip

PROCESSES = [
    Panel(
        "CPU", "Cores in use.",
        [
            (f"sum by (instance) (rate(process_cpu_seconds_total[{WINDOW}]) {OURS})", "serving"),
            (f"sum by (instance) (rate(freshet_trainer_process_cpu_seconds_total[{WINDOW}]))", "trainer"),
        ],
    ),
    Panel(
        "Memory", "Resident.",
        [
            (f"sum by (instance) (process_resident_memory_bytes {OURS})", "serving"),
            ("sum by (instance) (freshet_trainer_process_resident_memory_bytes)", "trainer"),
        ],
        "bytes",
    ),
    Panel(
        "Descriptors and restarts", "Open files and sockets of serving; starts of the trainer in five minutes.",
        [
            (f"sum by (instance) (process_open_fds {OURS})", "descriptors"),
            ("sum by (instance) (increase(freshet_trainer_restarts_total[5m]))", "trainer restarts"),
        ],
    ),
]  # fmt: skip

ROWS = {
    "Service": SERVICE, "Latency": LATENCY, "Streams": STREAMS, "Learning": LEARNING, "Gradient flow": GRADIENT,
    "Versions": VERSIONS, "Access": ACCESS, "Journal and disk": DISK, "Processes": PROCESSES,
}  # fmt: skip


def panels() -> list[Panel]:
    """All of them, in their order."""
    return [panel for row in ROWS.values() for panel in row]
