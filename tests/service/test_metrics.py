"""What a learner reports becomes counts: for what no client can bring about from outside."""

from __future__ import annotations

import math

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from model.learner import Learner, Update
from model.rounds import GROUP_ROWS
from model.spec import ModelSpec
from service.gate import Gate, GateSettings
from service.metrics import Metrics
from service.trainer.hosting import HostedModel
from service.trainer.process import progress


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def hosted() -> HostedModel:
    learner = Learner(ModelSpec(channels=("x",), hidden=4))
    return HostedModel(1, learner, Gate(GateSettings()))


def learned(model: HostedModel, values: list[float], first_seq: int = 1) -> list[Update]:
    """The updates of one stream's ticks."""
    n = len(values)
    seq = np.arange(first_seq, first_seq + n, dtype=np.uint64)
    x = np.array(values, np.float32)[:, None]
    return model.learner.ticks(np.ones(n, np.uint32), seq, np.full(n, np.nan), x)


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, {"tenant": "default", "model": "m", **labels}) or 0.0


def test_an_update_refused_for_a_non_finite_gradient_is_counted_by_reason(metrics):
    model = hosted()
    learned(model, [1, 2, 3, 4])
    model.learner.weights.flat[...] = np.nan  # as a divergence would leave it

    with np.errstate(invalid="ignore"):
        updates = learned(model, [5, 6], first_seq=5)
    metrics.of(("default", "m")).learned(progress(model, 0, updates))

    assert [bool(u.refused) for u in updates] == [True, True]
    assert value(metrics, "freshet_learner_refused_total", reason="non-finite") == 2
    assert value(metrics, "freshet_learner_updates_total") == model.learner.counts.updates


def test_every_number_of_a_report_reaches_its_metric(metrics):
    model = hosted()
    model.learner.anchor = model.learner.weights.flat.copy()
    updates = learned(model, np.sin(np.arange(40.0)).tolist())
    report = progress(model, 0, updates)
    report["scores"] = [(0.25, 0.5), (0.75, 0.5)]

    metrics.of(("default", "m")).learned(report)

    losses = [u.loss for u in updates]
    assert value(metrics, "freshet_loss_prequential") == pytest.approx(np.mean(losses))
    assert value(metrics, "freshet_score_candidate") == 0.5
    assert value(metrics, "freshet_score_anchor") == 0.5
    assert value(metrics, "freshet_labels_learned_total") == sum(u.labels for u in updates)
    reported = [u.report for u in updates if u.report]
    assert value(metrics, "freshet_gradient_norm_count", layer="all") == len(updates)
    assert value(metrics, "freshet_gradient_norm_count", layer="head") == len(reported)
    assert value(metrics, "freshet_update_ratio_count") == len(reported)
    assert value(metrics, "freshet_gates_saturated_ratio") == reported[-1].saturated
    for lag, norm in enumerate(reported[-1].lag_norms):
        assert value(metrics, "freshet_gradient_lag_norm", lag=str(lag)) == norm


def test_a_context_dropped_for_a_newer_one_is_counted(metrics):
    model = hosted()
    model.learner = Learner(model.learner.spec, max_contexts=GROUP_ROWS)
    n = GROUP_ROWS + 1
    streams = np.arange(n, dtype=np.uint32)

    updates = model.learner.ticks(streams, np.ones(n, np.uint64), np.full(n, np.nan), np.zeros((n, 1), np.float32))
    metrics.of(("default", "m")).learned(progress(model, 0, updates))

    assert value(metrics, "freshet_contexts_evicted_total") == 1


def test_totals_that_went_back_with_a_trainers_restart_are_not_counted_twice(metrics):
    model = hosted()
    child = metrics.of(("default", "m"))
    reports = []
    for first in (1, 11, 21):
        updates = learned(model, np.sin(np.arange(first, first + 10.0)).tolist(), first)
        reports.append(progress(model, 0, updates))

    for report in (*reports[:2], *reports):  # the second life learns again what the first had learned
        child.learned(report)

    assert value(metrics, "freshet_learner_updates_total") == model.learner.counts.updates
    assert value(metrics, "freshet_labels_learned_total") == model.learner.counts.learned


def test_a_loss_that_is_not_finite_does_not_reach_the_gauges(metrics):
    model = hosted()
    metrics.of(("default", "m")).learned(
        progress(model, 0, [Update(1, loss=2.0), Update(1, loss=math.nan), Update(1, loss=math.inf)])
    )

    assert value(metrics, "freshet_loss_prequential") == 2.0
