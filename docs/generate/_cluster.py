"""The panels of the dashboard of a cluster and their queries."""

from docs.generate._panels import WINDOW, Panel

JOB = 'job=~"$job"'
WRITES, READS = 'operation=~"append|claim|put|note"', 'operation=~"extents|read|get|list"'


def total(metric: str, how: str = "sum") -> str:
    """Return a query for a gauge of a cluster's nodes."""
    return f"{how} by (job) ({metric}{{{JOB}}})"


def lately(*counters: str) -> list[tuple[str, str]]:
    """Return queries for the growth of a cluster's counters in five minutes."""
    return [(f"sum by (job) (increase(freshet_{name}_total{{{JOB}}}[5m]))", name) for name in counters]


def slowest(q: float, where: str) -> str:
    """Return a query for a quantile of the time of calls to the store, by operation."""
    rates = f"rate(freshet_store_seconds_bucket{{{JOB}, {where}}}[{WINDOW}])"
    return f"histogram_quantile({q:g}, sum by (operation, le) ({rates}))"


def per_second(metric: str) -> str:
    """Return a query for the growth of a counter per second, by operation."""
    return f"sum by (operation) (rate({metric}{{{JOB}}}[{WINDOW}]))"


NODES = [
    Panel("Nodes", "Nodes that are alive, as they see each other.", [(total("freshet_nodes", "max"), "")],
          kind="stat", width=6),
    Panel("Shards without owner", "Their models take no ticks. A node claims such a shard by itself.",
          [(f'{total("freshet_cluster_shards", "max")} - {total("freshet_shards_owned")}', "")],
          kind="stat", width=6),
    Panel("Claims in five minutes", "A claim replays the tail of a shard, and its streams reconnect.",
          lately("shard_claims"), kind="stat", width=6),
    Panel("Duels in five minutes", "Claims lost because another node was faster, and shards lost to another node.",
          lately("shard_duels", "shard_lost"), kind="stat", width=6),
]  # fmt: skip

SHARDS = [
    Panel("Shards by node", "Shards that each node owns.",
          [(f"sum by (instance) (freshet_shards_owned{{{JOB}}})", "{{instance}}")], stacked=True),
    Panel("Epoch of each shard", "It grows by one with each claim: a steep curve is a shard that finds no rest.",
          [(f"max by (shard) (freshet_shard_epoch{{{JOB}}})", "{{shard}}")]),
    Panel("What happens to shards", "In five minutes: claims, duels, shards lost, failed to open, and handed over.",
          lately("shard_claims", "shard_duels", "shard_lost", "shard_failed", "shard_handovers")),
]  # fmt: skip

STORE = [
    Panel("Writes to the store, p99", "What is durable, and learning, wait for `append`; answers do not.",
          [(slowest(0.99, WRITES), "{{operation}}")], "s", log=True),
    Panel("Reads from the store, p99", "A claim waits for them.", [(slowest(0.99, READS), "{{operation}}")],
          "s", log=True),
    Panel("Calls", "Calls to the store per second. Clouds charge for each.",
          [(per_second("freshet_store_seconds_count"), "{{operation}}")], "ops", stacked=True),
    Panel("Bytes", "Bytes written to and read from the store per second.",
          [(per_second("freshet_store_bytes_total"), "{{operation}}")], "Bps", stacked=True),
    Panel("Errors", "Calls per second that failed; each is repeated with the same bytes.",
          [(per_second("freshet_store_errors_total"), "{{operation}}")], "ops"),
    Panel("Waiting for the store", "Journal entries appended by a node and not yet in the store.",
          [(f"sum by (instance) (freshet_journal_undurable_entries{{{JOB}}})", "{{instance}}")]),
]  # fmt: skip

ROWS = {"Cluster": NODES, "Shards": SHARDS, "Store": STORE}


def panels() -> list[Panel]:
    """Return all panels in order."""
    return [panel for row in ROWS.values() for panel in row]
