"""The text of a node's /metrics."""

from __future__ import annotations

import pytest
from prometheus_client import disable_created_metrics, enable_created_metrics
from prometheus_client.parser import text_string_to_metric_families

from service.cluster.hosting import scrape
from service.observe.metrics import Metrics
from service.observe.rendering import Registry


@pytest.fixture(autouse=True)
def without_created():
    """As in a server, where each counter has one series."""
    disable_created_metrics()
    yield
    enable_created_metrics()


def test_each_series_of_a_shard_has_its_number_and_each_family_appears_once():
    process, first, second = Registry(), Registry(), Registry()
    node = Metrics(process)
    shards = {3: Metrics(first, process=node), 11: Metrics(second, process=node)}
    node.access.strangers.inc(5)
    for number, metrics in shards.items():
        metrics.journal.journal_size.set(number)
        metrics.storage.disk_full.labels("journal").inc(number)
        metrics.journal.commit_seconds.observe(0.01 * number)
    families = list(text_string_to_metric_families(scrape.text(process, {3: first, 11: second}).decode()))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    by_name = {family.name: family for family in families}
    assert {s.labels["shard"]: s.value for s in by_name["freshet_journal_bytes"].samples} == {"003": 3, "011": 11}
    full = by_name["freshet_disk_full"].samples
    assert {s.labels["shard"]: s.value for s in full if s.labels["what"] == "journal"} == {"003": 3, "011": 11}
    sums = by_name["freshet_journal_commit_seconds"].samples
    assert {s.labels["shard"] for s in sums if s.name.endswith("_sum")} == {"003", "011"}


def test_a_node_without_shards_reports_what_the_process_counts():
    process = Registry()
    Metrics(process).access.strangers.inc(5)
    assert b"freshet_strangers_closed_total 5.0" in scrape.text(process, {})
