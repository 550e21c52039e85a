"""A node's metrics follow its shards and the calls to its store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from service.observe.cluster_metrics import OPERATIONS, ClusterMetrics
from service.observe.metrics import Metrics


class Unreachable(RuntimeError):
    """A fault of the store."""


class Taken(RuntimeError):
    """An answer of the store."""


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry(), cluster=True)


@pytest.fixture
def cluster(metrics: Metrics) -> ClusterMetrics:
    assert metrics.cluster is not None
    return metrics.cluster


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_server_without_a_store_has_no_metrics_of_a_cluster():
    alone = Metrics(CollectorRegistry())

    assert alone.cluster is None
    for name in ("freshet_cluster_shards", "freshet_shards_owned", "freshet_store_", "freshet_nodes"):
        assert name not in generate_latest(alone.registry).decode()


def test_shards_come_with_their_epoch_and_go(metrics, cluster):
    cluster.owns(3, 7)
    cluster.owns(11, 1)
    assert value(metrics, "freshet_shards_owned") == 2
    assert value(metrics, "freshet_shard_epoch", shard="003") == 7

    cluster.gone(3)
    cluster.gone(11)
    cluster.owns(11, 3)

    assert value(metrics, "freshet_shards_owned") == 1
    assert value(metrics, "freshet_shard_epoch", shard="003") is None
    assert value(metrics, "freshet_shard_epoch", shard="011") == 3
    assert value(metrics, "freshet_shard_claims_total") == 3


def test_a_call_is_timed_and_its_bytes_or_its_fault_counted(metrics, cluster):
    cluster.called("append", 0.01, 100, failed=False)
    cluster.called("append", 0.01, 0, failed=True)
    cluster.called("append", 0.01, 0, failed=False)
    cluster.called("read", 0.01, 5000, failed=False)

    assert value(metrics, "freshet_store_seconds_count", operation="append") == 3
    assert value(metrics, "freshet_store_errors_total", operation="append") == 1
    assert value(metrics, "freshet_store_bytes_total", operation="append") == 100
    assert value(metrics, "freshet_store_bytes_total", operation="read") == 5000


def test_every_operation_has_its_counters_before_it_is_called(metrics):
    for operation in OPERATIONS:
        assert value(metrics, "freshet_store_errors_total", operation=operation) == 0
        assert value(metrics, "freshet_store_seconds_count", operation=operation) == 0


def test_no_call_of_many_threads_is_lost(metrics, cluster):
    def call(_: int) -> None:
        cluster.called("put", 0.01, 1, failed=False)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(4000)))

    assert value(metrics, "freshet_store_seconds_count", operation="put") == 4000
    assert value(metrics, "freshet_store_bytes_total", operation="put") == 4000
