"""The dashboard's panels and their queries."""

from collections.abc import Sequence
from dataclasses import dataclass

WINDOW = "$__rate_interval"  # Grafana chooses it: at least four scrapes
MINE = 'tenant=~"$tenant", model=~"$model"'
OURS = "and on (instance, job) freshet_ready"  # for metrics that every Python process exports
NAMED = "{{tenant}}/{{model}}"  # the legend of a model's curve

Query = tuple[str, str]  # PromQL, and the legend of its curves


@dataclass(frozen=True)
class Panel:
    """One panel. unit: as Grafana names it; log: whether the axis is logarithmic; stacked: whether curves are."""

    title: str
    text: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: str = "timeseries"  # stat, bargauge, heatmap of curves, heatmap of a histogram
    width: int = 8
    log: bool = False
    stacked: bool = False


def rate(metric: str, by: str = "tenant, model", where: str = MINE) -> str:
    """Return a query for the growth of a counter per second."""
    return f"sum by ({by}) (rate({metric}{{{where}}}[{WINDOW}]))"


def quantile(q: float, metric: str, by: str = "", where: str = "") -> str:
    """Return a query for a quantile of a histogram's observations in the window."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({q:g}, sum by ({labels}) (rate({metric}_bucket{{{where}}}[{WINDOW}])))"


def mean(metric: str, by: str = "tenant, model", where: str = MINE) -> str:
    """Return a query for the mean of a histogram's observations in the window."""
    return f"{rate(f'{metric}_sum', by, where)} / {rate(f'{metric}_count', by, where)}"


def gauge(metric: str, how: str = "max", by: str = "tenant, model", where: str = MINE) -> str:
    """Return a query for a gauge by its labels, over all servers."""
    return f"{how} by ({by}) ({metric}{{{where}}})"


def quantiles(metric: str, *qs: float) -> list[Query]:
    """Return queries for several quantiles, over all servers."""
    return [(quantile(q, metric), f"p{100 * q:g}") for q in qs]


def rates(*metrics: str, suffix: str = "_total", prefix: str = "freshet_") -> list[Query]:
    """Return queries for several counters, summed over the chosen models; each legend is the counter's name."""
    return [(rate(f"{prefix}{name}{suffix}", by=""), name) for name in metrics]


SERVICE = [
    Panel(
        "Ready",
        "1: the server accepts streams. 0: it does not; /readyz returns the reason.",
        [("min(freshet_ready)", "")],
        kind="stat",
        width=4,
    ),
    Panel(
        "Trainer",
        "1: the trainer learns from the durable journal. (A shard of a cluster without models has none.)",
        [
            (
                'min(freshet_trainer_ready{shard=""} or (freshet_trainer_ready '
                f"and on (instance, job, shard) freshet_trainer_backlog_entries{{{MINE}}}))",
                "",
            )
        ],
        kind="stat",
        width=4,
    ),
    Panel(
        "Open streams",
        "Streams with an open call.",
        [(f"sum(freshet_streams_open{{{MINE}}})", "")],
        kind="stat",
        width=4,
    ),
    Panel("Ticks", "Ticks answered per second.", [(rate("freshet_ticks_total", by=""), "")], "ops", "stat", 4),
    Panel(
        "Learned", "Labels learned per second.", [(rate("freshet_labels_learned_total", by=""), "")], "ops", "stat", 4
    ),
    Panel(
        "Version",
        "The version of freshet that runs.",
        [("sum by (version) (freshet_build_info)", "{{version}}")],
        kind="stat",
        width=4,
    ),
]

LATENCY = [
    Panel(
        "Forecast latency", "Time from the arrival of a tick to the sending of its forecast.",
        quantiles("freshet_message_seconds", 0.5, 0.99, 0.999), "s", log=True,
    ),
    Panel(
        "Where the time goes, p99",
        "Waiting for a batch; a large step waiting for its turn; the model's step; the delay of the event loop.",
        [
            (quantile(0.99, "freshet_message_queue_seconds"), "queue"),
            (quantile(0.99, "freshet_large_step_wait_seconds"), "turn"),
            (quantile(0.99, "freshet_step_seconds"), "step"),
            (quantile(0.99, "freshet_event_loop_lag_seconds"), "event loop"),
        ],
        "s", log=True,
    ),
    Panel(
        "Forecast latency, all", "Distribution of the latency of all forecasts.",
        [(f"sum by (le) (increase(freshet_message_seconds_bucket[{WINDOW}]))", "{{le}}")], "s", "histogram",
    ),
    Panel(
        "Ticks in a step",
        "Mean number of ticks in one step of a model.",
        [(mean("freshet_batch_rows", "", ""), "rows")],
    ),
    Panel(
        "Calls", "Calls ended per second, by method and code.",
        [
            (
                f"sum by (grpc_method, grpc_code) (rate(grpc_server_handled_total[{WINDOW}]))",
                "{{grpc_method}} {{grpc_code}}",
            )
        ],
        "ops",
    ),
    Panel(
        "Messages", "Messages received and sent per second, by method.",
        [
            (f"sum by (grpc_method) (rate(grpc_server_msg_received_total[{WINDOW}]))", "{{grpc_method}} received"),
            (f"sum by (grpc_method) (rate(grpc_server_msg_sent_total[{WINDOW}]))", "{{grpc_method}} sent"),
        ],
        "ops",
    ),
    Panel(
        "Open calls", "Calls started and not ended; a stream is one call.",
        [("sum by (grpc_method) (grpc_server_started_total) - sum by (grpc_method) "
          "(sum without (grpc_code) (grpc_server_handled_total))", "{{grpc_method}}")],
    ),
]  # fmt: skip

STREAMS = [
    Panel(
        "Ticks by model",
        "Ticks answered with a new forecast, per second.",
        [(rate("freshet_ticks_total"), NAMED)], "ops",
    ),
    Panel(
        "Streams", "Streams known, in memory, and open.",
        [
            (f"sum(freshet_streams{{{MINE}}})", "known"),
            (f"sum(freshet_streams_resident{{{MINE}}})", "in memory"),
            (f"sum(freshet_streams_open{{{MINE}}})", "open"),
        ],
    ),
    Panel(
        "Opened, by state", "Streams opened per second, by the origin of their state. Lost: the client gets an error.",
        [(f"sum by (origin) (rate(freshet_streams_opened_total[{WINDOW}]))", "{{origin}}")], "ops",
    ),
    Panel(
        "Refused ticks", "Ticks refused per second, by reason.",
        [(f"sum by (reason) (rate(freshet_ticks_refused_total[{WINDOW}]))", "{{reason}}")], "ops",
    ),
    Panel(
        "Repeated and evicted",
        "Repeated ticks answered from stored answers, and idle streams removed from memory, per second.",
        rates("ticks_repeated", "streams_evicted"), "ops",
    ),
    Panel(
        "Staleness, p95", "Labels that had arrived but were not yet in the verdict on the weights that answered.",
        [(quantile(0.95, "freshet_staleness_labels", "tenant, model", MINE), NAMED)],
    ),
]  # fmt: skip

LEARNING = [
    Panel(
        "Loss against persistence",
        "Below 1: better than the present value as a forecast. Both on the same labels, in scaled units.",
        [(f"avg_over_time(freshet_loss_prequential{{{MINE}}}[5m]) / "
          f"avg_over_time(freshet_loss_persistence{{{MINE}}}[5m])", NAMED)],
    ),
    Panel(
        "Loss", "Loss of the candidate on each label before it learns it, and loss of persistence.",
        [(gauge("freshet_loss_prequential"), NAMED), (gauge("freshet_loss_persistence"), f"{NAMED} persistence")],
    ),
    Panel(
        "Coverage of intervals",
        "Share of label values inside their prediction interval, divided by its level: 1 is right, below 0.94 is off.",
        [(f'{rate("freshet_interval_covered_total", "tenant, model, level")} / '
          f'{rate("freshet_interval_asked_total", "tenant, model, level")}', f"{NAMED} {{{{level}}}}")],
    ),
    Panel(
        "Weights of the experts",
        "Shares of a model's mixture: the network, least squares, seasonal values and persistence. The sum is 1.",
        [(gauge("freshet_expert_weight"), f"{NAMED} {{{{expert}}}}")], stacked=True,
    ),
    Panel(
        "Error by step ahead, against persistence",
        "Square errors in scaled units, over about 500 labels; below 1: better than the present value.",
        [(f"freshet_error_squared{{{MINE}}} / freshet_error_squared_persistence{{{MINE}}}",
          f"{NAMED} step {{{{step}}}}")],
    ),
    Panel(
        "Candidate against anchor", "Clipped scores on the same labels, which the gate compares; 0 is best.",
        [(gauge("freshet_score_candidate"), NAMED), (gauge("freshet_score_anchor"), f"{NAMED} anchor")],
    ),
    Panel(
        "Outcome of labels", "Labels per second by outcome, over the chosen models.",
        [
            *rates("labels_learned", "labels_thinned", "labels_voided", "labels_unlearned", "labels_duplicate"),
            *rates("labels_quarantined", "entries_skipped"),
        ],
        "ops",
    ),
    Panel("Updates", "Updates of the weights per second.", [(rate("freshet_learner_updates_total"), NAMED)], "ops"),
    Panel(
        "Label to serving, p95", "Time from a durable label to serving weights whose verdict includes it.",
        [(quantile(0.95, "freshet_label_to_serving_seconds", "tenant, model", MINE), NAMED)], "s",
    ),
    Panel(
        "Backlog", "Durable journal entries not yet learned. Learn every: one in N labels is learned now.",
        [(gauge("freshet_trainer_backlog_entries"), NAMED), (gauge("freshet_learn_every"), f"{NAMED} learn every")],
    ),
    Panel(
        "Learning time", "Seconds of trainer time per second, by model, and seconds needed for the model's backlog.",
        [
            (rate("freshet_learning_seconds_total"), NAMED),
            (gauge("freshet_trainer_backlog_seconds"), f"{NAMED} backlog"),
        ],
        "s",
    ),
    Panel(
        "Age of unlearned labels",
        "How long the oldest durable label has waited for its verdict; above the target, an alert fires.",
        [(gauge("freshet_unjudged_seconds"), NAMED), ("max(freshet_fresh_target_seconds)", "target")], "s",
    ),
    Panel(
        "Labels and windows in", "Labels and windows sent outside the ticks, per second.",
        rates("labels", "windows", "windows_repeated", "windows_learned"), "ops",
    ),
    Panel(
        "Drift and refused updates", "Count in five minutes.",
        [
            (f"sum by (tenant, model) (increase(freshet_drift_total{{{MINE}}}[5m]))", f"{NAMED} drift"),
            (f"sum by (tenant, model) (increase(freshet_learner_refused_total{{{MINE}}}[5m]))", f"{NAMED} refused"),
        ],
    ),
    Panel("Learning paused", "1 while a user has paused learning.", [(gauge("freshet_learning_paused"), NAMED)]),
    Panel("In quarantine", "Labels and windows kept for inspection.", [(gauge("freshet_quarantine_items"), NAMED)]),
    Panel(
        "Quarantined, by reason", "Labels put into quarantine per second.",
        [(rate("freshet_labels_quarantined_total", "reason"), "{{reason}}")], "ops",
    ),
]  # fmt: skip

# Lags get three digits, because Grafana orders curves by the text of their labels.
# Of several layers, each lag shows the largest.
BY_LAG = gauge("freshet_gradient_lag_norm", by="lag")
for digits, zeros in (("(.)", "00$1"), ("(..)", "0$1")):
    BY_LAG = f'label_replace({BY_LAG}, "lag", "{zeros}", "lag", "{digits}")'

GRADIENT = [
    Panel(
        "Gradient norm, by layer", "Median norm before clipping. A layer near 0 does not learn.",
        [(quantile(0.5, "freshet_gradient_norm", "layer", MINE), "{{layer}}")], log=True,
    ),
    Panel(
        "Gradient by lag",
        "Norm of dL/dh at each lag, in ticks before the newest label. It shows how far back learning reaches.",
        [(BY_LAG, "{{lag}}")], kind="heatmap",
    ),
    Panel(
        "Gradient by lag, now",
        "The last report. A fast fall to 0 means that the model does not learn long dependencies.",
        [(BY_LAG, "{{lag}}")], kind="bargauge",
    ),
    Panel(
        "Size of an update", "Norm of the update divided by the norm of the weights, p50 and p99.",
        [(quantile(q, "freshet_update_ratio", "", MINE), f"p{100 * q:g}") for q in (0.5, 0.99)], log=True,
    ),
    Panel(
        "Clipped updates", "Share of updates whose gradient norm exceeded the spec's clip.",
        [(f"{rate('freshet_learner_clipped_total')} / {rate('freshet_learner_updates_total')}", NAMED)], "percentunit",
    ),
    Panel(
        "Saturated gates", "Share of a layer's gates, or of units of a cell without gates, that pass no gradient.",
        [(gauge("freshet_gates_saturated_ratio", by="tenant, model, layer"), f"{NAMED} {{{{layer}}}}")], "percentunit",
    ),
]  # fmt: skip

VERSIONS = [
    Panel(
        "Versions", "The version that serves, and the anchor: the last version that proved itself.",
        [(gauge("freshet_version"), NAMED), (gauge("freshet_version_anchor"), f"{NAMED} anchor")],
    ),
    Panel("Verdicts", "Verdicts per second, by kind.", [(rate("freshet_verdicts_total", "kind"), "{{kind}}")], "ops"),
    Panel(
        "Since the last publish", "Age of the last publication.",
        [(f"time() - {gauge('freshet_published_timestamp_seconds')}", NAMED)], "s",
    ),
    Panel(
        "Rollbacks", "Rollbacks in an hour, manual ones included.",
        [(f"sum by (tenant, model) (increase(freshet_rollbacks_total{{{MINE}}}[1h]))", NAMED)],
    ),
    Panel(
        "Evidence against the candidate",
        "About 1 while the candidate is no worse than the anchor; at 10,000 it is vetoed.",
        [(gauge("freshet_gate_evidence"), NAMED)], log=True,
    ),
    Panel(
        "Export and parity",
        "Time to make a version's ONNX file, p95, and its largest difference from NumPy, in scaled units.",
        [(quantile(0.95, "freshet_export_seconds"), "export"), (gauge("freshet_parity_error"), f"{NAMED} parity")],
        log=True,
    ),
]  # fmt: skip

ACCESS = [
    Panel(
        "Calls denied", "Calls per second without a valid token, or with a role that is too low.",
        [(f"sum by (reason) (rate(freshet_calls_denied_total[{WINDOW}]))", "{{reason}}")], "ops",
    ),
    Panel(
        "Quotas reached", "Refusals per second, by tenant and quota.",
        [(rate("freshet_quota_reached_total", "tenant, quota", 'tenant=~"$tenant"'), "{{tenant}} {{quota}}")], "ops",
    ),
    Panel(
        "Invalid files, calls ended",
        "1 while a changed access file or certificate is invalid; calls ended in five minutes because their token "
        "expired or was revoked.",
        [
            ("max by (file) (freshet_file_invalid)", "{{file}} invalid"),
            ("sum(increase(freshet_calls_revoked_total[5m]))", "calls ended"),
        ],
    ),
]  # fmt: skip

DISK = [
    Panel(
        "Journal commits, p99", "Time of one group commit, and time from the append of an entry until it is durable.",
        [
            (quantile(0.99, "freshet_journal_commit_seconds"), "commit"),
            (quantile(0.99, "freshet_journal_durable_lag_seconds"), "append to disk"),
        ],
        "s", log=True,
    ),
    Panel(
        "Disk", "Size of the journal, and free space.",
        [("max by (instance) (freshet_journal_bytes)", "journal"),
         ("min by (instance) (freshet_disk_free_bytes)", "free")],
        "bytes",
    ),
    Panel(
        "Journal growth", "Bytes made durable per second.",
        [(f"sum by (instance) (rate(freshet_journal_position_bytes[{WINDOW}]))", "{{instance}}")], "Bps",
    ),
    Panel(
        "Replay after a crash", "Bytes of journal after the last snapshot (serving) and the last checkpoint (trainer).",
        [
            ("sum(freshet_journal_position_bytes - freshet_snapshot_position_bytes)", "serving"),
            ("sum(freshet_journal_position_bytes - freshet_checkpoint_position_bytes)", "trainer"),
        ],
        "bytes",
    ),
    Panel(
        "Waiting for the disk", "Entries appended but not durable; `full` is 1 while the disk is full.",
        [("sum(freshet_journal_undurable_entries)", "entries"), ("max(freshet_journal_no_space)", "full")],
    ),
    Panel(
        "Faults", "In five minutes: writes that found the disk full, damaged parts skipped, and calls cut.",
        [
            ("sum by (what) (increase(freshet_disk_full_total[5m]))", "disk full: {{what}}"),
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
        "Memory", "Resident memory.",
        [
            (f"sum by (instance) (process_resident_memory_bytes {OURS})", "serving"),
            ("sum by (instance) (freshet_trainer_process_resident_memory_bytes)", "trainer"),
        ],
        "bytes",
    ),
    Panel(
        "Descriptors and restarts", "Open files and sockets of serving; restarts of the trainer in five minutes.",
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
    """Return all panels in order."""
    return [panel for row in ROWS.values() for panel in row]
