"""Reports of the learner become counts, also those that no client can cause from outside."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

import freshet
from model.fold.learner import Learner, Update
from model.spec import ModelSpec
from model.update.rounds import GROUP_ROWS
from service.common.gate import Gate, GateSettings
from service.observe.metrics import Metrics
from service.server.server import Server
from service.trainer.hosting import HostedModel
from service.trainer.quarantine import REASONS
from service.trainer.reports import learned as progress
from tests.service.one_process import World, key, world


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry(), quarantined=REASONS)


def hosted() -> HostedModel:
    learner = Learner(ModelSpec(channels=("x",), hidden=4))
    return HostedModel(1, learner, Gate(GateSettings()))


def learned(model: HostedModel, values: list[float], first_seq: int = 1) -> list[Update]:
    """Learn ticks of one stream; return the updates."""
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
    metrics.learner.of(("default", "m")).learned(progress(model, 0, updates))

    assert [bool(u.refused) for u in updates] == [True, True]
    assert value(metrics, "freshet_learner_refused_total", reason="non-finite") == 2
    assert value(metrics, "freshet_learner_updates_total") == model.learner.counts.updates


def test_every_number_of_a_report_reaches_its_metric(metrics):
    model = hosted()
    model.learner.anchor = model.learner.weights.flat.copy()
    updates = learned(model, np.sin(np.arange(40.0)).tolist())
    report = progress(model, 0, updates)
    report = replace(report, scores=((0.25, 0.5), (0.75, 0.5)))

    metrics.learner.of(("default", "m")).learned(report)

    losses = [u.loss for u in updates]
    assert value(metrics, "freshet_loss_prequential") == pytest.approx(np.mean(losses))
    assert value(metrics, "freshet_loss_persistence") == pytest.approx(np.mean([u.persistence for u in updates]))
    persistence = sum(u.persistence for u in updates)
    assert value(metrics, "freshet_losses_total", forecaster="candidate") == pytest.approx(sum(losses))
    assert value(metrics, "freshet_losses_total", forecaster="persistence") == pytest.approx(persistence)
    assert value(metrics, "freshet_score_candidate") == 0.5
    assert value(metrics, "freshet_score_anchor") == 0.5
    assert value(metrics, "freshet_labels_learned_total") == sum(u.labels for u in updates)
    reported = [u.report for u in updates if u.report]
    assert value(metrics, "freshet_gradient_norm_count", layer="all") == len(updates)
    assert value(metrics, "freshet_gradient_norm_count", layer="head") == len(reported)
    assert value(metrics, "freshet_update_ratio_count") == len(reported)
    assert value(metrics, "freshet_gates_saturated_ratio", layer="cell0") == reported[-1].saturated["cell0"]
    for lag, norm in enumerate(reported[-1].lag_norms["cell0"]):
        assert value(metrics, "freshet_gradient_lag_norm", layer="cell0", lag=str(lag)) == norm


def test_the_weights_of_a_mixtures_experts_are_those_of_the_candidate(metrics):
    model = hosted()
    spec = replace(model.learner.spec, forecaster="mixture", interval=3600.0, seasons=(86_400.0, 14_400.0))
    model.learner = Learner(spec)
    network, name = model.learner.network, ("default", "m")
    metrics.learner.of(name).learned(progress(model, 0, []))
    assert value(metrics, "freshet_expert_weight", expert="network") == 1
    for i in range(40):
        time = np.array([3600.0 * i])
        x = np.full((1, 1), np.sin(i), np.float32)
        model.learner.ticks(np.zeros(1, np.uint32), np.array([i + 1], np.uint64), time, x)
    metrics.learner.of(name).learned(progress(model, 0, []))

    names = ("network", "squares_hidden", "squares", "persistence", "naive_day", "naive_14400")
    assert network.mixture is not None
    assert network.mixture.names == names
    shown = [value(metrics, "freshet_expert_weight", expert=name) for name in names]
    assert shown == pytest.approx(network.mixture.weights(model.learner.weights.experts).tolist())
    assert sum(shown) == pytest.approx(1)
    assert shown[0] < 1


def test_a_context_dropped_for_a_newer_one_is_counted(metrics):
    model = hosted()
    model.learner = Learner(model.learner.spec, max_contexts=GROUP_ROWS)
    n = GROUP_ROWS + 1
    streams = np.arange(n, dtype=np.uint32)

    updates = model.learner.ticks(streams, np.ones(n, np.uint64), np.full(n, np.nan), np.zeros((n, 1), np.float32))
    metrics.learner.of(("default", "m")).learned(progress(model, 0, updates))

    assert value(metrics, "freshet_contexts_evicted_total") == 1


def test_totals_that_fall_back_with_a_trainers_restart_are_not_counted_twice(metrics):
    model = hosted()
    child = metrics.learner.of(("default", "m"))
    reports = []
    for first in (1, 11, 21):
        updates = learned(model, np.sin(np.arange(first, first + 10.0)).tolist(), first)
        reports.append(progress(model, 0, updates))

    for report in (*reports[:2], *reports):  # after its restart the trainer learns the same ticks again
        child.learned(report)

    assert value(metrics, "freshet_learner_updates_total") == model.learner.counts.updates
    assert value(metrics, "freshet_labels_learned_total") == model.learner.counts.learned


def test_counts_of_a_former_server_are_not_counted_again(metrics):
    model = hosted()
    learned(model, [1, 2, 3, 4, 5])
    child = metrics.learner.of(("default", "m"))
    child.resuming = True  # as recovery leaves it

    child.learned(progress(model, 0, []))
    counted = value(metrics, "freshet_learner_updates_total")
    child.learned(progress(model, 0, learned(model, [6, 7], first_seq=6)))

    assert counted == 0
    assert value(metrics, "freshet_learner_updates_total") == 2


def test_counters_of_alerts_exist_before_their_first_count(metrics):
    metrics.of(("default", "m"))

    there = {s.name for family in metrics.registry.collect() for s in family.samples if s.labels.get("model") == "m"}

    assert {
        "freshet_rollbacks_total", "freshet_verdicts_total", "freshet_entries_skipped_total",
        "freshet_labels_quarantined_total", "freshet_learner_refused_total", "freshet_quarantine_dropped_total",
    } <= there  # fmt: skip


async def test_metrics_show_a_models_versions_as_they_change_and_after_a_restart(tmp_path):
    def stand(world: World) -> tuple[float | None, ...]:
        names = ("version", "version_anchor", "learning_paused", "published_timestamp_seconds", "rollbacks_total")
        labels = {"tenant": "default", "model": "flow"}
        return tuple(world.server.registry.get_sample_value(f"freshet_{name}", labels) for name in names)

    async with world(tmp_path) as live:
        model = await live.model()
        live.wall = lambda: 100.0
        number = await live.publish(model, seed=1)
        live.wall = lambda: 200.0
        published = stand(live)
        await live.control.promote(key("flow"), number)
        await live.control.pause(key("flow"))
        promoted = stand(live)
        await live.control.roll_back(key("flow"), 1)
        returned = stand(live)
    async with world(tmp_path) as again:
        after = stand(again)

    assert published == (number, 1, 0, 100.0, 0)
    assert promoted == (number, number, 1, 200.0, 0)
    assert returned == (1, 1, 1, 200.0, 1)
    assert after[:3] == returned[:3]


async def test_a_scrape_shows_whether_server_and_trainer_are_ready_now(tmp_path):
    async with world(tmp_path) as live:
        before = {
            name: live.server.registry.get_sample_value(name) for name in ("freshet_ready", "freshet_trainer_ready")
        }
        assert isinstance(live.server, Server)
        live.server.readiness.opened = True
        live.server.trainers.clients[0].ready.set()
        [build] = next(iter(live.server.metrics.process.build.collect())).samples

        assert before == {"freshet_ready": 0, "freshet_trainer_ready": 0}
        assert live.server.registry.get_sample_value("freshet_ready") == 1
        assert live.server.registry.get_sample_value("freshet_trainer_ready") == 1
        assert (live.server.registry.get_sample_value("freshet_disk_free_bytes") or 0) > 0
        assert (build.labels["version"], build.labels["numpy"]) == (freshet.__version__, np.__version__)


async def test_overload_and_evidence_are_per_model_metrics(tmp_path):
    async with world(tmp_path, comfortable_backlog=2) as live:
        model = await live.model()
        session = live.open(model, "pump")
        await live.learn()
        report = progress(live.trainer.models[model.number], 0, [])
        for x in range(5):
            await live.tick(model, session, float(x))
        await live.server.journal.flush()

        await live.server.learning.handle(report)
        await live.verdict(model, "veto", numbers={"evidence": 7.5})

        labels = {"tenant": "default", "model": "flow"}
        assert live.server.registry.get_sample_value("freshet_trainer_backlog_entries", labels) == 5
        assert (live.server.registry.get_sample_value("freshet_learn_every", labels) or 0) > 1
        assert live.server.registry.get_sample_value("freshet_gate_evidence", labels) == 7.5


def test_a_loss_that_is_not_finite_does_not_reach_the_gauges(metrics):
    model = hosted()
    metrics.learner.of(("default", "m")).learned(
        progress(model, 0, [Update(1, loss=2.0), Update(1, loss=math.nan), Update(1, loss=math.inf)])
    )

    assert value(metrics, "freshet_loss_prequential") == 2.0
