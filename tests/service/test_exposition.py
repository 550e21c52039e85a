"""Rates and quantiles between two scrapes, compared with the true counts and observations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from service.common.names import ModelKey
from service.console.exposition import NOTHING, Between, Scrape, quantile
from service.observe.declaring import FRESHNESS_S
from service.observe.metrics import Metrics

KEY = ModelKey("acme", "flow")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def scraped(metrics: Metrics) -> Scrape:
    return Scrape.parse(generate_latest(metrics.registry).decode())


def test_a_histogram_s_quantiles_lie_where_the_observations_do():
    observed = np.random.default_rng(3).uniform(0, 4, 10_000)
    bounds = np.linspace(0.5, 4, 8)
    buckets = [*((float(b), float((observed <= b).sum())) for b in bounds), (math.inf, 10_000.0)]
    for q in (0.05, 0.5, 0.95):
        assert quantile(buckets, q) == pytest.approx(np.quantile(observed, q), abs=0.05)  # uniform within each bucket
    assert quantile([(1.0, 0.0), (math.inf, 5.0)], 0.5) == 1.0
    assert quantile([(1.0, 0.0), (math.inf, 0.0)], 0.5) is None


def test_quantiles_and_means_cover_only_what_was_observed_between_two_scrapes(metrics):
    rng = np.random.default_rng(5)
    freshness = metrics.publishing.of(KEY).freshness
    for value in rng.uniform(10, 30, 500):
        freshness.observe(value)
    before = scraped(metrics)
    observed = rng.uniform(0, 1, 5_000)
    for value in observed:
        freshness.observe(value)

    between, name = Between(before, scraped(metrics), 5.0), "freshet_label_to_serving_seconds"

    edges = np.array((0.0, *FRESHNESS_S))
    for q in (0.05, 0.5, 0.95, 0.99):
        true, got = np.quantile(observed, q), between.quantile(q, name, tenant="acme")
        assert got is not None
        assert np.searchsorted(edges, got) == np.searchsorted(edges, true), "in the bucket of the true quantile"
        assert got == pytest.approx(true, abs=0.02), "which are uniform within"
    assert between.mean(name, model="flow") == pytest.approx(observed.mean())
    assert between.mean(name, model="another") is None
    assert Between(before, before, 5.0).quantile(0.5, name) is None, "nothing came"


def test_a_rate_is_the_count_divided_by_the_elapsed_seconds(metrics):
    metrics.serving.of(KEY).ticks.inc(70)
    before = scraped(metrics)
    metrics.serving.of(KEY).ticks.inc(30)
    metrics.serving.of(("acme", "new")).ticks.inc(8)

    between = Between(before, scraped(metrics), 4.0)

    assert between.rate("freshet_ticks_total", model="flow") == 30 / 4
    assert between.rate("freshet_ticks_total", model="new") == 8 / 4, "a new series began at 0"
    assert between.rate("freshet_ticks_total") == 38 / 4
    assert between.rate("freshet_no_such_total") is None
    assert Between(before, before, 0.0).rate("freshet_ticks_total") is None, "one scrape alone gives no rate"


def test_a_restarted_server_counts_from_0(metrics):
    again = Metrics(CollectorRegistry())
    for made, ticks, staleness in ((metrics, 1000, 3), (again, 12, 100)):
        made.serving.of(KEY).ticks.inc(ticks)
        for _ in range(ticks):
            made.serving.of(KEY).staleness.observe(staleness)

    between = Between(scraped(metrics), scraped(again), 6.0)

    assert between.rate("freshet_ticks_total") == 2
    assert between.mean("freshet_staleness_labels") == 100
    assert 64 < (between.quantile(0.5, "freshet_staleness_labels") or 0) <= 128


def test_a_scrape_is_split_by_tenant_and_model(metrics):
    metrics.serving.of(KEY).ticks.inc(1)
    metrics.serving.of(("other", "flow")).ticks.inc(2)
    metrics.serving.of(KEY).staleness.observe(5)
    metrics.storage.disk_full.labels("journal").inc()

    parts = scraped(metrics).by_model

    assert set(parts) == {KEY, ("other", "flow")}
    assert [parts[key].total("freshet_ticks_total") for key in sorted(parts)] == [1, 2]
    assert parts[KEY].buckets("freshet_staleness_labels")[-1] == (math.inf, 1)
    assert parts[KEY].total("freshet_disk_full_total") is None
    assert NOTHING.by_model == {}


def test_text_that_is_not_an_exposition_is_refused():
    with pytest.raises(ValueError, match="invalid metric name"):
        Scrape.parse("<html>a gateway's page</html>")
