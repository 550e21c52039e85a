"""What `freshet top` makes of what a server says, and how it fits a terminal."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from freshet import Model, ModelReport, results
from freshet.v1 import models_pb2
from freshet.v1.models_pb2 import ModelEvent
from freshet.v1.types_pb2 import ModelSpec
from service.common.gate import COOLING_DOWN
from service.common.names import ModelKey
from service.console.exposition import Scrape
from service.edge.wire_models import report_message
from service.observe.metrics import Metrics
from service.programs.top.lines import header, mapping, plain
from service.programs.top.screen import COLUMNS, ago, count, duration, screen, spark
from service.programs.top.view import POINTS, WINDOW_S, History, Look, ModelView, Verdict, View, WorstStream, only
from service.trainer.hosting import Totals
from service.trainer.reports import Progress

NAMES = ("pumps", "taxi-demand", "a-model-with-a-rather-long-name")
LEARNING, SERVING_ONLY = ModelSpec(learn=True), ModelSpec(learn=False)
FACTS = [
    Model.of(message)
    for message in (
        models_pb2.Model(spec=LEARNING, name="pumps", champion=7, anchor=3, streams=9, offset=100, judged_offset=90),
        models_pb2.Model(spec=LEARNING, name="taxi-demand", champion=2, paused=True),
        models_pb2.Model(spec=SERVING_ONLY, name="a-model-with-a-rather-long-name", champion=1),
    )
]
VERDICTS = {"pumps": Verdict("vetoed", "worse than the anchor")}


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics(CollectorRegistry())
    for number, name in enumerate(NAMES, 1):
        of = made.of(ModelKey("default", name))
        of.serving.version.set(number)
        of.serving.streams.set(10 * number)
        of.serving.open_streams.set(number)
        of.trainer.backlog.set(0)
        of.serving.published.set(900.0)
        of.serving.paused.set(name == "taxi-demand")
    return made


def works(metrics: Metrics, name: str = "pumps") -> None:
    """So much happens between two looks."""
    key = ModelKey("default", name)
    of = metrics.of(key)
    of.serving.ticks.inc(50)
    for labels in (1,) * 90 + (20,) * 10:
        of.serving.staleness.observe(labels)
    metrics.learner.learned.labels(*key).inc(40)
    metrics.publishing.verdicts.labels(*key, "publish").inc(3)
    metrics.publishing.verdicts.labels(*key, "veto").inc()
    metrics.publishing.rollbacks.labels(*key).inc()
    for layer, norm in {"all": 0.5, "cell0": 0.3, "head": 0.4}.items():
        metrics.learner.gradient_norm.labels(*key, layer).observe(norm)
    for _ in range(99):
        metrics.serving.total_seconds.observe(2e-4)
    metrics.serving.total_seconds.observe(2.0)
    metrics.journal.journal_size.set(12_345_678)


def look(metrics: Metrics | None, at: float, models: list[Model] | None = FACTS, **more: Any) -> Look:
    text = generate_latest(metrics.registry).decode() if metrics else None
    made = Look(at, 1000.0 + at, Scrape.parse(text) if text else None, models, "ready", (), VERDICTS)
    return replace(made, **more)


def seen(metrics: Metrics) -> tuple[View, History]:
    history = History()
    history.add(look(metrics, 0.0))
    works(metrics)
    return history.add(look(metrics, 5.0)), history


def drawn(view: View, history: History, width: int, height: int) -> list[str]:
    return [line.plain for line in screen(view, history.points, "127.0.0.1:8300", width, height)]


def test_a_models_line_says_what_happened_between_two_looks(metrics):
    metrics.learner.loss.labels("default", "pumps").set(0.4)
    view, history = seen(metrics)
    metrics.learner.loss.labels("default", "pumps").set(0.2)
    view = history.add(look(metrics, 6.0))

    [m] = [m for m in view.models if m.model == "pumps"]
    assert (m.streams_open, m.streams, m.version, m.backlog, m.learning) == (1, 10, 1, 0, "yes")
    assert (m.ticks_per_s, m.learned_per_s) == (50 / 6, 40 / 6)
    assert m.loss == pytest.approx((0.4 + 0.4 + 0.2) / 3), "the mean over the window"
    assert m.staleness_p50 == pytest.approx(0.5, abs=0.5)
    assert m.persistence is None
    assert m.staleness_p95 is not None
    assert 16 < m.staleness_p95 <= 32
    assert m.gradient == {"all": 0.5, "cell0": 0.3, "head": 0.4}
    assert (m.published, m.vetoed, m.rolled_back) == (3, 1, 1)
    assert (m.verdict, m.reason, m.published_s) == ("vetoed", "worse than the anchor", 106.0)
    assert [m.learning for m in view.models] == ["never", "yes", "paused"], "by name"
    assert view.server.latency_p50 == pytest.approx(2e-4, abs=5e-5)
    assert view.server.journal_bytes == 12_345_678


def test_the_loss_of_persistence_is_told_where_the_server_measures_it():
    metrics = Metrics(CollectorRegistry())
    for metric, value in ((metrics.learner.loss, 0.3), (metrics.learner.persistence, 0.6)):
        metric.labels("default", "m").set(value)
    view = History().add(look(metrics, 0.0, None))

    [m] = view.models
    assert (m.loss, m.persistence) == (0.3, 0.6)
    assert "0.50" in " ".join(drawn(view, History(), 120, 20))


def test_the_coverage_of_intervals_is_that_of_the_window():
    metrics, history = Metrics(CollectorRegistry()), History()
    key = "default", "m"
    for at, inside in enumerate((50, 130)):
        metrics.learner.asked.labels(*key, "0.9").inc(90)
        metrics.learner.covered.labels(*key, "0.9").inc(inside)
        view = history.add(look(metrics, float(at), None))

    [m] = view.models
    assert m.coverage == {"0.9": pytest.approx(1.3)}
    assert "inside intervals: 90.0% asked 130.0%" in " ".join(drawn(view, history, 120, 20))


def test_the_experts_of_a_mixture_are_shown_with_the_largest_weight_first():
    metrics = Metrics(CollectorRegistry())
    for expert, weight in (("network", 0.25), ("squares", 0.75)):
        metrics.learner.experts.labels("default", "m", expert).set(weight)
    view = History().add(look(metrics, 0.0, None))

    [m] = view.models
    assert m.experts == {"network": 0.25, "squares": 0.75}
    assert "mixture: squares .75, network .25" in " ".join(drawn(view, History(), 120, 20))


def test_a_model_that_is_paused_or_thinned_and_a_trainer_that_is_away_are_told(metrics):
    metrics.trainer.of(("default", "pumps")).learn_every.set(4)
    metrics.trainer.trainer_ready.set(0)
    view, history = seen(metrics)

    assert [m.learning for m in view.models] == ["never", "1 in 4", "paused"]
    assert "no trainer" in drawn(view, history, 150, 20)[0]
    metrics.trainer.trainer_ready.set(1)
    assert "no trainer" not in drawn(history.add(look(metrics, 9.0)), history, 150, 20)[0]


def test_rates_are_those_of_the_window_not_of_all_time(metrics):
    history = History()
    works(metrics)
    for at in range(0, 60, 2):
        history.add(look(metrics, float(at)))
    works(metrics)
    view = history.add(look(metrics, 60.0))

    assert view.models[1].ticks_per_s == 50 / WINDOW_S
    for at in (62, 64, 66, 68, 70):
        view = history.add(look(metrics, float(at)))
    assert view.models[1].ticks_per_s == 0
    assert view.models[1].staleness_p50 is None


def test_a_server_that_is_away_keeps_what_was_seen_and_what_comes_back_restarts(metrics):
    view, history = seen(metrics)
    before = view.models

    away = history.add(look(None, 7.0, None, ready="", troubles=("no http://x/metrics: Connection refused",)))
    still = history.add(look(None, 9.0, None, ready=""))

    assert (away.away, still.away) == (1007.0, 1007.0)
    assert away.models == before
    assert drawn(away, history, 80, 24)[0].startswith("freshet 127.0.0.1:8300   away since 00:16:47Z")
    assert "! no http://x/metrics: Connection refused" in drawn(away, history, 80, 24)
    assert plain(away) == ["# 00:16:47Z away since 00:16:47Z: no http://x/metrics: Connection refused"]
    again = Metrics(CollectorRegistry())
    again.serving.of(ModelKey("default", "pumps")).ticks.inc(3)
    back = history.add(look(again, 11.0))
    assert back.away is None
    assert back.models[1].ticks_per_s is None, "two looks at the new process are needed"


def test_whoever_may_not_read_metrics_sees_what_grpc_tells():
    view = History().add(look(None, 0.0))

    m = view.models[1]
    assert (m.tenant, m.model, m.version, m.streams, m.backlog) == ("", "pumps", 7, 9, 10)
    assert (m.ticks_per_s, m.verdict) == (None, "vetoed")


def test_a_candidate_that_has_to_wait_after_a_rollback_is_no_veto():
    for reason, kind in (("worse than the anchor", "vetoed"), (COOLING_DOWN, "cooling down")):
        said = Verdict.of(results.ModelEvent.of(ModelEvent(kind=ModelEvent.VETOED, reason=reason)))
        assert said == Verdict(kind, reason)
        history = History()
        view = history.add(look(None, 0.0, verdicts={"pumps": said}))
        assert any(f"last verdict {kind}: {reason}" in line for line in drawn(view, history, 200, 60))


def test_another_tenants_model_of_the_same_name_is_another_model(metrics):
    metrics.serving.of(("acme", "pumps")).version.set(44)
    view, history = seen(metrics)

    theirs, *ours = [m for m in view.models if m.model == "pumps"]
    assert (theirs.tenant, theirs.version, theirs.verdict, theirs.learning) == ("acme", 44, "", "")
    assert [m.version for m in ours] == [1]
    assert any(line.startswith("acme/pumps ") for line in drawn(view, history, 120, 30))


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 140, 200])
@pytest.mark.parametrize("height", [4, 10, 24, 60])
def test_the_screen_fits_every_terminal(metrics, width, height):
    view, history = seen(metrics)
    lines = drawn(view, history, width, height)

    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert height < 10 or any(line.startswith("pumps") for line in lines)


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
def test_what_the_table_has_no_room_for_stands_below_it(metrics, width):
    view, history = seen(metrics)
    text = "\n".join(drawn(view, history, width, 100))

    assert all(column.name in text for column in COLUMNS)
    for words in ("1/10", "3/1/1", "gradient all ▅ 0.5", "gradient head ▅ 0.4", "last verdict vetoed: worse than the"):
        assert words in text


def test_models_that_do_not_fit_are_counted():
    models = [ModelView("default", f"model-{n:02}", version=n) for n in range(40)]
    view, _ = seen(Metrics(CollectorRegistry()))
    lines = drawn(replace(view, models=models), History(), 80, 24)

    shown = [line for line in lines if line.startswith("model-")]
    assert shown[0].split()[0] == "model-00"
    assert lines[-1] == f"… and {40 - len(shown)} more: give names to choose"
    assert len(lines) == 24


def test_a_model_that_is_asked_for_and_not_there_is_told(metrics):
    view, history = seen(metrics)
    some = only(view, {"pumps", "pumsp"})

    assert [m.model for m in some.models] == ["pumps"]
    assert "! no model pumsp" in drawn(some, history, 80, 24)
    assert plain(some)[1].endswith(" no model pumsp")


def test_lines_for_programs_have_the_same_words_whatever_happens(metrics):
    view, history = seen(metrics)
    rows = [line.split(" ") for v in (view, history.add(look(metrics, 60.0))) for line in plain(v)]

    names = header().split(" ")
    rows = [row for row in rows if row[0] != "#"]
    assert {len(row) for row in rows} == {len(names)}
    pumps = dict(zip(names, rows[1], strict=True))
    assert (pumps["model"], pumps["ticks_per_s"], pumps["verdict"]) == ("pumps", "10", "vetoed")
    assert pumps["gradient"] == "all=0.5,cell0=0.3,head=0.4"
    assert pumps["persistence"] == "-"


def test_the_json_of_a_view_is_strict_json(metrics):
    view, _ = seen(metrics)

    told = json.loads(json.dumps(mapping(view), allow_nan=False))

    assert told["models"][1]["gradient"] == {"all": 0.5, "cell0": 0.3, "head": 0.4}
    assert told["server"]["ready"] == "ready"


def test_what_a_server_says_does_not_steer_the_terminal(metrics):
    metrics.serving.of(("default", "\x1b[2J\x07evil")).version.set(1)
    view, history = seen(metrics)
    view = replace(view, troubles=("\x1b]0;title\x07",))

    lines = [*drawn(view, history, 100, 50), *plain(view)]

    assert all(line.isprintable() for line in lines)
    assert any("evil" in line for line in lines)


def test_a_line_that_is_drawn_keeps_its_last_points_and_ends_with_its_model(metrics):
    history = History()
    for at in range(60):
        works(metrics)
        history.add(look(metrics, float(at)))
    assert len(history.points[("default", "pumps"), "cell0"]) == POINTS
    history.add(look(Metrics(CollectorRegistry()), 61.0, []))
    assert not history.points


def test_blocks_follow_the_logarithm_over_at_least_a_factor_of_ten():
    assert spark([1e-3, 1e-2, 1e-1, 1e0]) == "▁▃▆█"
    assert spark([1.0, 1.01, 0.99]) == "▅▅▄"
    assert spark([0.0, 5.0]) == "▅", "nothing is below every block"
    assert spark([]) == ""


@pytest.mark.parametrize(
    ("made", "value", "text"),
    [
        (count, None, "–"), (count, 0, "0"), (count, 0.25, "0.25"), (count, 999.4, "999"), (count, 999.6, "1k"),
        (count, 12_345, "12.3k"), (count, 999_999, "1M"), (count, 5e9, "5G"), (count, math.pi * 1e13, "31.4T"),
        (duration, 2.5e-4, "250 µs"), (duration, 0.0123, "12.3 ms"), (duration, 3, "3 s"), (duration, None, "–"),
        (ago, 0.04, "0.0 s ago"), (ago, 59.7, "60 s ago"), (ago, 90, "2 min ago"), (ago, 7200, "2 h ago"),
        (ago, 200_000, "2 d ago"), (ago, None, "–"),
    ],
)  # fmt: skip
def test_numbers_are_short(made, value, text):
    assert made(value) == text


def test_a_model_whose_labels_wait_too_long_has_a_line_of_its_own(metrics):
    metrics.publishing.fresh.set(30)
    metrics.publishing.of(("default", "pumps")).unjudged.set(74)
    metrics.publishing.of(("default", "taxi-demand")).unjudged.set(29)
    seen = History().add(look(metrics, 0.0))

    shown = [line.plain for line in screen(seen, {}, "127.0.0.1:8300", 200, 40)]
    assert [line for line in shown if "behind" in line] == ["! pumps is behind: labels have waited 74 s to be learned"]
    assert next(line for line in plain(seen) if "behind" in line).endswith("behind: pumps waits 74s")
    assert mapping(seen)["models"][1]["waiting_s"] == 74
    assert not [line for line in plain(only(seen, ["taxi-demand"])) if "behind" in line]


def reported(metrics: Metrics) -> list[Model]:
    """The same models as a server lists them, with how they do."""
    models = []
    for facts in FACTS:
        of = metrics.of(ModelKey("default", facts.name))
        champion, streams = int(of.serving.version._value.get()), int(of.serving.streams._value.get())
        report = ModelReport.of(report_message(of))
        models.append(replace(facts, champion=champion, streams=streams, report=report))
    return models


def test_whoever_may_not_read_metrics_sees_the_same_of_its_own_models(metrics):
    with_page, without = History(), History()
    learner = metrics.learner.of(ModelKey("default", "pumps"))
    totals = Totals(0, dict.fromkeys(learner.totals, 0), {}, 0)
    for at in (0.0, 5.0, 6.0):
        report = Progress(0, 1, 0.0, totals, losses=(0.4 + at / 10,), persistence=(0.8,))
        learner.learned(report)
        works(metrics)
        operator = with_page.add(look(metrics, at))
        tenant = without.add(look(None, at, reported(metrics)))

    for operators, tenants in zip(operator.models, tenant.models, strict=True):
        assert operators.model == tenants.model
        assert replace(operators, tenant="", gradient={}) == tenants
    [pumps] = [m for m in tenant.models if m.model == "pumps"]
    assert pumps.loss == pytest.approx((0.4 + 0.9 + 1.0) / 3)
    assert pumps.persistence == pytest.approx(0.8)
    assert pumps.staleness_p50 == pytest.approx(0.5, abs=0.5)
    assert pumps.ticks_per_s == 100 / 6
    assert tenant.server.calls is None, "that is not the tenant's to know"


def test_of_a_server_that_sends_no_report_the_facts_are_shown():
    view = History().add(look(None, 0.0))
    assert [(m.model, m.loss, m.version) for m in view.models if m.model == "pumps"] == [("pumps", None, 7)]


def test_the_worst_streams_have_lines_of_their_own_while_there_is_room(metrics):
    worst = [WorstStream("pumps", f"pump-{n}", 3.5 - n, 500) for n in range(10)]
    history = History()
    seen = history.add(look(metrics, 0.0, worst=worst))

    lines = drawn(seen, history, 120, 60)
    at = lines.index("worst streams of pumps, error ÷ persistence")
    assert lines[at + 1] == "  pump-0   3.50   500 labels"
    assert len(lines) == at + 11
    assert len(drawn(seen, history, 120, 12)) <= 12
    first = next(line.split()[2:] for line in plain(seen) if "worst" in line)
    assert first == [
        "worst:",
        "pumps",
        "pump-0",
        "ratio=3.5",
    ]
    assert mapping(seen)["worst"][1]["stream"] == "pump-1"
