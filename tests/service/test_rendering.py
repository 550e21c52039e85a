"""The text of a scrape equals the library's, and unchanged series are not rendered again."""

from __future__ import annotations

import random

import prometheus_client
import pytest
from prometheus_client import Gauge, ProcessCollector, generate_latest

from service.common.names import ModelKey
from service.observe import rendering
from service.observe.metrics import Metrics
from service.observe.rendering import Registry

prometheus_client.disable_created_metrics()  # as the server does


def lines(text: bytes) -> list[str]:
    return text.decode().splitlines()


def test_the_text_always_equals_that_of_the_library():
    rng = random.Random(3)
    registry = Registry()
    metrics = Metrics(registry)
    metrics.storage.disk_free.set_function(lambda: 17.0)
    keys = [ModelKey('a"b\\', f"m{n}") for n in range(5)]
    for round in range(40):
        model = metrics.of(rng.choice(keys))
        rng.choice(
            [model.serving.ticks, model.intake.accepted_labels, model.intake.windows, metrics.journal.truncated]
        ).inc(rng.random())
        rng.choice([model.trainer.backlog, model.publishing.evidence, metrics.journal.durable_lag]).set(
            rng.choice([0.0, 1.5, float("nan"), 1e300])
        )
        histograms = model.serving.staleness, model.publishing.freshness, metrics.journal.commit_seconds
        rng.choice(histograms).observe(rng.random() * 10)
        metrics.learner.lag_norm.labels(*model.key, "cell0", str(round % 3)).set(round)
        if round % 7 == 6:
            metrics.forget(rng.choice(keys))
        assert lines(registry.text()) == lines(generate_latest(registry)), round


def test_a_collector_of_the_library_is_rendered_until_it_is_unregistered():
    registry = Registry()
    gauge = Gauge("level", "A level.", ["where"], registry=registry)
    gauge.labels("here").set(2)
    process = ProcessCollector(registry=registry)
    assert {"process_open_fds", 'level{where="here"}'} <= {line.split(" ")[0] for line in lines(registry.text())}

    registry.unregister(process)
    assert lines(registry.text()) == lines(generate_latest(registry))
    registry.unregister(gauge)
    assert registry.text() == b""


def test_only_changed_series_are_rendered_again(monkeypatch):
    registry = Registry()
    metrics = Metrics(registry)
    models = [metrics.of(ModelKey("default", f"m{n}")) for n in range(20)]
    registry.text()
    written, text = [], rendering._text

    def counted(families):
        written.append(1)
        return text(families)

    monkeypatch.setattr(rendering, "_text", counted)
    registry.text()
    unlabelled = len(written)
    written.clear()

    models[7].serving.ticks.inc()
    models[7].serving.staleness.observe(3)
    assert b'freshet_ticks_total{model="m7",tenant="default"} 1.0' in registry.text()
    assert len(written) == unlabelled + 2


def test_a_rendering_that_ignored_changed_values_would_be_detected(monkeypatch):
    monkeypatch.setattr(rendering, "values_of", lambda child: 0)
    with pytest.raises(AssertionError):
        test_the_text_always_equals_that_of_the_library()
