"""Metrics of a node of a cluster: its shards, the other nodes, and the store. Declared only where a store is set."""

from __future__ import annotations

import threading

from service.observe.declaring import Declare

OPERATIONS = ("append", "claim", "extents", "read", "trim", "put", "note", "get", "list", "delete")  # of a Store
STORE_S = (5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # bucket bounds


class ClusterMetrics:
    """A node's shards and its store: `owns` and `gone` follow the shards, `called` each call to the store."""

    def __init__(self, declare: Declare) -> None:
        self.shards = declare.gauge("cluster_shards", "Shards of the cluster.")
        self.nodes = declare.gauge("nodes", "Nodes that are alive, as this one sees it; itself included.")
        self.owned = declare.gauge("shards_owned", "Shards that this node owns.")
        self.epoch = declare.gauge("shard_epoch", "Epoch of each shard that this node owns.", "shard")
        self.claims = declare.counter("shard_claims_total", "Shards that this node has claimed.")
        self.duels = declare.counter("shard_duels_total", "Claims that this node lost because another node was faster.")
        self.fenced = declare.counter(
            "shard_lost_total", "Shards that another node claimed while this one still wrote to them."
        )
        self.failed = declare.counter("shard_failed_total", "Shards that this node gave up, or could not open.")
        self.handovers = declare.counter("shard_handovers_total", "Shards that this node has handed over.")
        self.slices_waiting = declare.gauge(
            "slices_waiting",
            "Models whose slices this node could not read or follow at its last look; its log says why.",
        )
        seconds = declare.histogram_by(("operation",), "store_seconds", "Duration of one call to the store.", STORE_S)
        self._seconds, self._observing = {name: seconds.labels(name) for name in OPERATIONS}, threading.Lock()
        self.store_errors = declare.counter(
            "store_errors_total", "Calls to the store that failed: unreachable, or a fault of its own.", "operation"
        )
        self.store_bytes = declare.counter("store_bytes_total", "Bytes written to or read from the store.", "operation")
        for operation in OPERATIONS:  # Prometheus sees no increase in a counter that appears with its first count
            self.store_errors.labels(operation)
            self.store_bytes.labels(operation)

    def owns(self, shard: int, epoch: int) -> None:
        """Note that this node has claimed a shard, in this epoch."""
        self.claims.inc()
        self.owned.inc()
        self.epoch.labels(_name(shard)).set(epoch)

    def gone(self, shard: int) -> None:
        """Note that this node no longer owns a shard."""
        self.owned.dec()
        self.epoch.remove(_name(shard))

    def called(self, operation: str, seconds: float, size: int, failed: bool) -> None:
        """Count one call to the store. Thread-safe. operation: one of OPERATIONS; size: bytes in either direction."""
        with self._observing:
            self._seconds[operation].observe(seconds)
        self.store_bytes.labels(operation).inc(size)
        self.store_errors.labels(operation).inc(failed)


def _name(shard: int) -> str:
    """Return a shard's number as the names in the store write it."""
    return f"{shard:03d}"
