"""The view of a server that is shown: pure functions of the last looks and the time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from freshet import EventKind, Model, ModelEvent, ModelReport
from service.common.gate import COOLING_DOWN
from service.console.exposition import NOTHING, Between, Sample, Scrape
from service.console.shown import learning

WINDOW_S = 10.0  # seconds that rates, means and quantiles cover
POINTS = 40  # of each spark line
OWN_TENANT = "default"  # a caller that may read /metrics and list models is an administrator of this tenant
VERDICTS = {EventKind.PUBLISHED: "published", EventKind.VETOED: "vetoed", EventKind.ROLLED_BACK: "rolled back"}
STREAMING = ("Open", "Mux", "Learn")  # long calls of clients

Key = tuple[str, str]  # tenant and name of a model


@dataclass(frozen=True, slots=True)
class Verdict:
    """The last verdict on a model's versions, and its reason."""

    kind: str = ""  # one of VERDICTS, or "cooling down": candidates right after a rollback are not judged
    reason: str = ""

    @classmethod
    def of(cls, event: ModelEvent) -> Verdict:
        """Return the verdict in an event, whose kind is one of VERDICTS."""
        cooling = event.kind == EventKind.VETOED and event.reason == COOLING_DOWN
        return cls("cooling down" if cooling else VERDICTS[event.kind], event.reason)


@dataclass(frozen=True, slots=True)
class WorstStream:
    """A stream of the first model shown, with the largest errors relative to persistence."""

    model: str
    stream: str
    ratio: float  # its recent scaled square error divided by persistence's
    labels: int


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a server. at: monotonic, time: since 1970, both in seconds. None: that source did not answer."""

    at: float
    time: float
    metrics: Scrape | None
    models: Sequence[Model] | None
    ready: str = ""
    troubles: Sequence[str] = ()
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)  # by model, of the caller's tenant
    worst: Sequence[WorstStream] = ()


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model's line. None: unknown, or no observation in the window."""

    tenant: str
    model: str
    streams_open: int | None = None
    streams: int | None = None
    ticks_per_s: float | None = None
    learned_per_s: float | None = None
    loss: float | None = None
    persistence: float | None = None  # its loss on the same labels
    coverage: Mapping[str, float] = field(default_factory=dict)  # of the intervals, by level
    experts: Mapping[str, float] = field(default_factory=dict)  # weights of a mixture
    staleness_p50: float | None = None
    staleness_p95: float | None = None
    gradient: Mapping[str, float] = field(default_factory=dict)  # mean norm by layer
    version: int | None = None
    published_s: float | None = None  # since the last publish
    published: int | None = None
    vetoed: int | None = None
    rolled_back: int | None = None
    verdict: str = ""  # the last one
    reason: str = ""
    backlog: int | None = None
    learning: str = ""  # yes, paused, never, or "1 in N" labels under overload
    waiting_s: float | None = None  # since the oldest label on disk that is not judged
    shard: int | None = None  # of a cluster: where the model is, the owner's address, the number of its claims
    node: str = ""
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class ServerView:
    """The server's line. Latency is of a message, in seconds."""

    ready: str
    trainer: bool | None = None  # whether the trainer is ready
    calls: int | None = None
    ticks_per_s: float | None = None
    latency_p50: float | None = None
    latency_p99: float | None = None
    journal_bytes: int | None = None
    fresh_s: float | None = None  # a model whose labels wait longer is behind
    shards: int | None = None  # of a node of a cluster: those that it owns


@dataclass(frozen=True, slots=True)
class View:
    """All that is shown. models: sorted by tenant and name. away: time of the first look without answer, or None.

    worst: streams of one model, the worst first.
    """

    time: float
    server: ServerView
    models: Sequence[ModelView]
    troubles: Sequence[str] = ()
    away: float | None = None
    worst: Sequence[WorstStream] = ()

    @property
    def in_cluster(self) -> bool:
        """Whether the server is a node of a cluster."""
        return self.server.shards is not None or any(m.node for m in self.models)


class History:
    """The looks in the window, and the points of the spark lines."""

    def __init__(self) -> None:
        self._looks: deque[Look] = deque()
        self._away: float | None = None
        self._last = View(0.0, ServerView(""), ())
        self.points: dict[tuple[Key, str], deque[float]] = {}  # the loss, and the gradient norm by layer

    def add(self, look: Look) -> View:
        """Add a look and return the new view; while nothing answers, the view keeps the last models."""
        if look.metrics is None and look.models is None:
            self._looks.clear()  # it may return as another process
            self._away = self._away or look.time
            server = ServerView(look.ready or "no answer")
            return View(look.time, server, self._last.models, look.troubles, self._away)
        self._away = None
        self._looks.append(look)
        while len(self._looks) > 2 and self._looks[1].at <= look.at - WINDOW_S:
            self._looks.popleft()
        self._last = view(self._looks)
        self._note(self._last.models)
        return self._last

    def _note(self, models: Iterable[ModelView]) -> None:
        """Add a point to each model's spark lines, and drop those of deleted models."""
        keys = set()
        for m in models:
            for name, value in {"loss": m.loss, **m.gradient}.items():
                key = (m.tenant, m.model), name
                keys.add(key)
                if value is not None:
                    self.points.setdefault(key, deque(maxlen=POINTS)).append(value)
        for gone in self.points.keys() - keys:
            if gone[0] not in {key for key, _ in keys}:
                del self.points[gone]


def view(looks: Sequence[Look]) -> View:
    """Return the view of these looks, oldest first; with only one that has metrics, rates and quantiles are None."""
    now = looks[-1]
    if now.metrics:
        scraped = [(look.at, look.metrics) for look in looks if look.metrics]
    else:  # refused or not reached: the list of models has numbers of the caller's own models
        scraped = [(look.at, reports(look.models)) for look in looks if look.models]
    scrapes = [scrape for _, scrape in scraped]
    seconds = scraped[-1][0] - scraped[0][0] if scraped else 0.0
    listed = [reports(look.models) for look in looks if look.models and look.metrics]
    facts = {(OWN_TENANT if now.metrics else "", m.name): m for m in now.models or ()}
    keys = sorted(facts.keys() | (now.metrics.by_model.keys() if now.metrics else set()))
    models = [
        model_view(
            key,
            _of_model(key, now, scrapes, listed, facts.get(key)),
            seconds,
            now.time,
            facts.get(key),
            now.verdicts.get(key[1], Verdict()) if key in facts else Verdict(),
        )
        for key in keys
    ]
    server = server_view(now.ready, scrapes if now.metrics else [], seconds)
    return View(now.time, server, models, now.troubles, worst=now.worst)


def _of_model(
    key: Key, now: Look, scrapes: Sequence[Scrape], listed: Sequence[Scrape], facts: Model | None
) -> Sequence[Scrape]:
    """Return a model's part of each scrape; of one on another node, what the list of models says of it."""
    if now.metrics and key not in now.metrics.by_model and facts and facts.node and has_report(facts):
        return [scrape.by_model.get(("", key[1]), NOTHING) for scrape in listed]
    if now.metrics or (facts and has_report(facts)):
        return [scrape.by_model.get(key, NOTHING) for scrape in scrapes]
    return []


def has_report(model: Model) -> bool:
    """Return whether the server sent a model's report; older servers do not."""
    return model.report is not None


def reports(models: Iterable[Model]) -> Scrape:
    """Return the reports of the caller's models as the samples that /metrics would have, without a tenant."""
    return Scrape(
        (f"freshet_{name}", Sample({"tenant": "", "model": model.name, **labels}, value))
        for model in models
        if model.report is not None
        for name, labels, value in samples(model, model.report)
    )


def samples(model: Model, report: ModelReport) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """Yield one model's samples: name, more labels, value."""
    yield "streams", {}, model.streams
    yield "streams_open", {}, report.streams_open
    yield "ticks_total", {}, report.ticks
    yield "labels_learned_total", {}, report.learned_labels
    yield "version", {}, model.champion
    yield "published_timestamp_seconds", {}, report.published_time
    yield "verdicts_total", {"kind": "publish"}, report.published
    yield "verdicts_total", {"kind": "veto"}, report.vetoed
    yield "rollbacks_total", {}, report.rolled_back
    yield "trainer_backlog_entries", {}, report.backlog
    yield "learning_paused", {}, model.paused
    yield "learn_every", {}, report.learn_every
    yield "unjudged_seconds", {}, report.unjudged_seconds
    if report.loss is not None:
        yield "loss_prequential", {}, report.loss
    if report.persistence_loss is not None:
        yield "loss_persistence", {}, report.persistence_loss
    for bound, count in zip([*report.staleness_bounds, math.inf], report.staleness_counts, strict=False):
        yield "staleness_labels_bucket", {"le": str(bound)}, count


def only(seen: View, names: Collection[str]) -> View:
    """Return the view with only the models of these names; a missing one is added to the troubles."""
    missing = sorted(set(names) - {m.model for m in seen.models}) if seen.away is None else []
    troubles = [*seen.troubles, *(f"no model {name}" for name in missing)]
    return replace(seen, models=[m for m in seen.models if m.model in names], troubles=troubles)


def behind(seen: View) -> list[ModelView]:
    """Return the models whose labels wait longer to be learned and judged than the server's target."""
    target = seen.server.fresh_s
    return [m for m in seen.models if target is not None and m.waiting_s is not None and m.waiting_s > target]


def model_view(
    key: Key,
    scrapes: Sequence[Scrape],
    seconds: float,
    time: float,
    facts: Model | None,
    verdict: Verdict,
) -> ModelView:
    """Return one model's line. scrapes: its part of each scrape in the window, the first `seconds` before the last."""
    tenant, name = key
    if not scrapes:  # an older server, whose metrics the caller may not read
        assert facts
        return ModelView(
            tenant, name, streams=facts.streams, version=facts.champion, verdict=verdict.kind, reason=verdict.reason,
            backlog=facts.offset - facts.judged_offset, learning=learning(facts), **place(facts),
        )  # fmt: skip
    now = scrapes[-1]
    layers = sorted(now.values("freshet_gradient_norm_count", "layer"))
    passed = Between(scrapes[0], now, seconds)
    norms = {layer: passed.mean("freshet_gradient_norm", layer=layer) for layer in layers}
    return ModelView(
        tenant,
        name,
        streams_open=_whole(now.total("freshet_streams_open")),
        streams=_whole(now.total("freshet_streams")),
        ticks_per_s=passed.rate("freshet_ticks_total"),
        learned_per_s=passed.rate("freshet_labels_learned_total"),
        loss=_mean(scrapes, "freshet_loss_prequential"),
        persistence=_mean(scrapes, "freshet_loss_persistence"),
        coverage=_coverage(passed),
        experts=_experts(now),
        staleness_p50=passed.quantile(0.5, "freshet_staleness_labels"),
        staleness_p95=passed.quantile(0.95, "freshet_staleness_labels"),
        gradient={layer: norm for layer, norm in norms.items() if norm is not None},
        version=_whole(now.total("freshet_version")),
        published_s=_since(now.total("freshet_published_timestamp_seconds"), time),
        published=int(now.total("freshet_verdicts_total", kind="publish") or 0),
        vetoed=int(now.total("freshet_verdicts_total", kind="veto") or 0),
        rolled_back=int(now.total("freshet_rollbacks_total") or 0),
        verdict=verdict.kind,
        reason=verdict.reason,
        backlog=_whole(now.total("freshet_trainer_backlog_entries")),
        learning=_learning(facts, now),
        waiting_s=now.total("freshet_unjudged_seconds"),
        **place(facts),
    )


def place(facts: Model | None) -> dict[str, Any]:
    """Return where a model is, by field of ModelView; nothing without a cluster."""
    return {"shard": facts.shard, "node": facts.node, "epoch": facts.epoch} if facts and facts.node else {}


def server_view(ready: str, scrapes: Sequence[Scrape], seconds: float) -> ServerView:
    """Return the server's line from the scrapes in the window."""
    if not scrapes:
        return ServerView(ready)
    now, passed = scrapes[-1], Between(scrapes[0], scrapes[-1], seconds)
    begun, ended = (
        sum(now.total(f"grpc_server_{name}_total", grpc_method=method) or 0.0 for method in STREAMING)
        for name in ("started", "handled")
    )
    return ServerView(
        ready,
        trainer=_trainer(now),
        calls=int(begun - ended),
        ticks_per_s=passed.rate("freshet_ticks_total"),
        latency_p50=passed.quantile(0.5, "freshet_message_seconds"),
        latency_p99=passed.quantile(0.99, "freshet_message_seconds"),
        journal_bytes=_whole(now.total("freshet_journal_bytes")),
        fresh_s=now.highest("freshet_fresh_target_seconds"),
        shards=_whole(now.total("freshet_shards_owned")),
    )


def _trainer(now: Scrape) -> bool | None:
    """Return whether the trainer is ready, in a cluster those of all shards with models; None: unknown, or no model."""
    if not now.values("freshet_trainer_ready", "shard"):
        ready = now.total("freshet_trainer_ready")
        return None if ready is None else bool(ready)
    shards = now.values("freshet_version", "shard")
    return all(now.total("freshet_trainer_ready", shard=shard) for shard in shards) if shards else None


def _mean(scrapes: Sequence[Scrape], name: str) -> float | None:
    """Return the mean of a gauge over the window, because the value of one chunk is noisy."""
    values = [value for scrape in scrapes if (value := scrape.total(name)) is not None]
    return fmean(values) if values else None


def _coverage(passed: Between) -> dict[str, float]:
    """Return the share of label values inside the intervals of each level, in the window; none without labels."""
    found = {}
    for level in sorted(passed.now.values("freshet_interval_asked_total", "level"), key=float):
        if asked := passed.increase("freshet_interval_asked_total", level=level):
            covered = passed.increase("freshet_interval_covered_total", level=level) or 0.0
            found[level] = float(level) * covered / asked
    return found


def _experts(now: Scrape) -> dict[str, float]:
    """Return the weights of a mixture by the expert's name; none for another forecaster."""
    found = (
        (name, now.total("freshet_expert_weight", expert=name))
        for name in now.values("freshet_expert_weight", "expert")
    )
    return {name: weight for name, weight in found if weight is not None}


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _since(then: float | None, now: float) -> float | None:
    """Return the seconds from `then` to now, at least 0: the clocks of two machines may differ slightly."""
    return max(0.0, now - then) if then else None


def _learning(facts: Model | None, now: Scrape) -> str:
    """Return whether a model learns; under overload, one in how many labels."""
    if now.total("freshet_learning_paused"):
        return "paused"
    every = now.total("freshet_learn_every") or 1.0
    return f"1 in {every:.0f}" if every > 1 else learning(facts) if facts else ""
