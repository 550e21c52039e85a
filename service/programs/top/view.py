"""What a person is to see of a server: plain functions of what was last learned of it, and of the time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from freshet import EventKind, Model, ModelEvent, ModelReport
from service.common.gate import COOLING_DOWN
from service.console.exposition import NOTHING, Between, Sample, Scrape
from service.console.shown import learning

WINDOW_S = 10.0  # rates, means and quantiles are of the last so many seconds
POINTS = 40  # of each line that is drawn
OWN_TENANT = "default"  # whoever may read /metrics and list models too is an administrator of this tenant
VERDICTS = {EventKind.PUBLISHED: "published", EventKind.VETOED: "vetoed", EventKind.ROLLED_BACK: "rolled back"}
STREAMING = ("Open", "Mux", "Learn")  # the calls of clients that stay open

Key = tuple[str, str]  # tenant and name of a model


@dataclass(frozen=True, slots=True)
class Verdict:
    """The last thing that was said of a model's versions, and why."""

    kind: str = ""  # one of VERDICTS, or cooling down: of candidates after a rollback, whatever they are worth
    reason: str = ""

    @classmethod
    def of(cls, event: ModelEvent) -> Verdict:
        """What an event of a kind in VERDICTS says."""
        cooling = event.kind == EventKind.VETOED and event.reason == COOLING_DOWN
        return cls("cooling down" if cooling else VERDICTS[event.kind], event.reason)


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a server. `at` is monotonic, `time` since 1970, both seconds; None: that source did not answer."""

    at: float
    time: float
    metrics: Scrape | None
    models: Sequence[Model] | None
    ready: str = ""
    troubles: Sequence[str] = ()
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)  # by model of the caller's own tenant


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model's line. None: not known, or nothing of it happened in the window."""

    tenant: str
    model: str
    streams_open: int | None = None
    streams: int | None = None
    ticks_per_s: float | None = None
    learned_per_s: float | None = None
    loss: float | None = None
    persistence: float | None = None  # its loss on the same labels
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


@dataclass(frozen=True, slots=True)
class ServerView:
    """The server's line. Latency is of a message, in seconds."""

    ready: str
    trainer: bool | None = None  # whether it takes in what is to be learned
    calls: int | None = None
    ticks_per_s: float | None = None
    latency_p50: float | None = None
    latency_p99: float | None = None
    journal_bytes: int | None = None
    fresh_s: float | None = None  # a model whose labels wait longer is behind


@dataclass(frozen=True, slots=True)
class View:
    """All that is shown. models: by tenant and name. away: since when nothing answers, seconds since 1970, or None."""

    time: float
    server: ServerView
    models: Sequence[ModelView]
    troubles: Sequence[str] = ()
    away: float | None = None


class History:
    """The looks of the window, and what lines are drawn from."""

    def __init__(self) -> None:
        self._looks: deque[Look] = deque()
        self._away: float | None = None
        self._last = View(0.0, ServerView(""), ())
        self.points: dict[tuple[Key, str], deque[float]] = {}  # the loss, and the gradient norm by layer

    def add(self, look: Look) -> View:
        """Take a look in; what is to be seen now. While nothing answers that is what was seen last."""
        if look.metrics is None and look.models is None:
            self._looks.clear()  # it may come back as another process
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
        """One point more on each model's lines; those of models that are gone end."""
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
    """What these looks say, the oldest first; rates and quantiles are None with only one that has metrics."""
    now = looks[-1]
    if now.metrics:
        scraped = [(look.at, look.metrics) for look in looks if look.metrics]
    else:  # refused, or not reached: the caller's own models are known from the list of them
        scraped = [(look.at, reports(look.models)) for look in looks if look.models]
    scrapes = [scrape for _, scrape in scraped]
    seconds = scraped[-1][0] - scraped[0][0] if scraped else 0.0
    facts = {(OWN_TENANT if now.metrics else "", m.name): m for m in now.models or ()}
    keys = sorted(facts.keys() | (now.metrics.by_model.keys() if now.metrics else set()))
    models = [
        model_view(
            key,
            [scrape.by_model.get(key, NOTHING) for scrape in scrapes] if now.metrics or has_report(facts[key]) else [],
            seconds,
            now.time,
            facts.get(key),
            now.verdicts.get(key[1], Verdict()) if key in facts else Verdict(),
        )
        for key in keys
    ]
    server = server_view(now.ready, scrapes if now.metrics else [], seconds)
    return View(now.time, server, models, now.troubles)


def has_report(model: Model) -> bool:
    """Whether a server sent how a model does: older ones do not."""
    return model.report is not None


def reports(models: Iterable[Model]) -> Scrape:
    """How the caller's own models do, as the samples that /metrics would have of them, without a tenant."""
    return Scrape(
        (f"freshet_{name}", Sample({"tenant": "", "model": model.name, **labels}, value))
        for model in models
        if model.report is not None
        for name, labels, value in samples(model, model.report)
    )


def samples(model: Model, report: ModelReport) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """One model's samples: name, further labels, value."""
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
    """The models of these names; that one is not there is told."""
    missing = sorted(set(names) - {m.model for m in seen.models}) if seen.away is None else []
    troubles = [*seen.troubles, *(f"no model {name}" for name in missing)]
    return replace(seen, models=[m for m in seen.models if m.model in names], troubles=troubles)


def behind(seen: View) -> list[ModelView]:
    """The models whose labels wait for longer to be learned and judged than the server is to let them."""
    target = seen.server.fresh_s
    return [m for m in seen.models if target is not None and m.waiting_s is not None and m.waiting_s > target]


def model_view(
    key: Key,
    scrapes: Sequence[Scrape],
    seconds: float,
    time: float,
    facts: Model | None,
    said: Verdict,
) -> ModelView:
    """One model's line. scrapes: its part of each of the window's, the first `seconds` before the last."""
    tenant, name = key
    if not scrapes:  # of an older server, whose metrics may not be read
        assert facts
        return ModelView(
            tenant, name, streams=facts.streams, version=facts.champion, verdict=said.kind, reason=said.reason,
            backlog=facts.offset - facts.judged_offset, learning=learning(facts)
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
        staleness_p50=passed.quantile(0.5, "freshet_staleness_labels"),
        staleness_p95=passed.quantile(0.95, "freshet_staleness_labels"),
        gradient={layer: norm for layer, norm in norms.items() if norm is not None},
        version=_whole(now.total("freshet_version")),
        published_s=_since(now.total("freshet_published_timestamp_seconds"), time),
        published=int(now.total("freshet_verdicts_total", kind="publish") or 0),
        vetoed=int(now.total("freshet_verdicts_total", kind="veto") or 0),
        rolled_back=int(now.total("freshet_rollbacks_total") or 0),
        verdict=said.kind,
        reason=said.reason,
        backlog=_whole(now.total("freshet_trainer_backlog_entries")),
        learning=_learning(facts, now),
        waiting_s=now.total("freshet_unjudged_seconds"),
    )


def server_view(ready: str, scrapes: Sequence[Scrape], seconds: float) -> ServerView:
    """The server's line, of the scrapes in the window."""
    if not scrapes:
        return ServerView(ready)
    now, passed = scrapes[-1], Between(scrapes[0], scrapes[-1], seconds)
    begun, ended = (
        sum(now.total(f"grpc_server_{name}_total", grpc_method=method) or 0.0 for method in STREAMING)
        for name in ("started", "handled")
    )
    trainer = now.total("freshet_trainer_ready")
    return ServerView(
        ready,
        trainer=None if trainer is None else bool(trainer),
        calls=int(begun - ended),
        ticks_per_s=passed.rate("freshet_ticks_total"),
        latency_p50=passed.quantile(0.5, "freshet_message_seconds"),
        latency_p99=passed.quantile(0.99, "freshet_message_seconds"),
        journal_bytes=_whole(now.total("freshet_journal_bytes")),
        fresh_s=now.total("freshet_fresh_target_seconds"),
    )


def _mean(scrapes: Sequence[Scrape], name: str) -> float | None:
    """The mean of a gauge over the window: that of one chunk says little."""
    values = [value for scrape in scrapes if (value := scrape.total(name)) is not None]
    return fmean(values) if values else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _since(then: float | None, now: float) -> float | None:
    """Seconds from a moment to now; the clocks of two machines may differ by a little."""
    return max(0.0, now - then) if then else None


def _learning(facts: Model | None, now: Scrape) -> str:
    """Whether a model learns; under overload, one in how many labels."""
    if now.total("freshet_learning_paused"):
        return "paused"
    every = now.total("freshet_learn_every") or 1.0
    return f"1 in {every:.0f}" if every > 1 else learning(facts) if facts else ""
