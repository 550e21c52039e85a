"""The server's metrics, declared in one group per owner. A component takes its group and sets it.

Names are in base units with the prefix `freshet_`. No label holds a stream id. Per-model metrics are labelled `tenant`
and `model`, and a group's `of(key)` returns the children of one model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.common.names import ModelKey
from service.observe.cluster_metrics import ClusterMetrics
from service.observe.declaring import Declare
from service.observe.learning_metrics import BacklogMetrics, PublishingMetrics, TrainerMetrics, VersionMetrics
from service.observe.progress import LearnerMetrics, LearnerProgress
from service.observe.server_metrics import AccessMetrics, JournalMetrics, ProcessMetrics, StorageMetrics
from service.observe.serving_metrics import AcceptedMetrics, IntakeMetrics, ServedMetrics, ServingMetrics


class Counted(NamedTuple):
    """Counts of one model since this server started, reported to its own tenant."""

    ticks: int
    learned: int
    backlog: int
    learn_every: int
    streams_open: int
    published: int
    vetoed: int
    rolled_back: int
    published_time: float  # seconds since 1970; 0: not by this server
    staleness: tuple[int, ...]  # forecasts by bucket of STALENESS, and above all buckets
    unjudged_seconds: float  # time the oldest durable label has waited to be learned and judged


class ModelMetrics:
    """One model's children in every group."""

    def __init__(self, metrics: Metrics, key: ModelKey) -> None:
        self._verdicts, self.key = metrics.publishing.verdicts, key
        self.serving: ServedMetrics = metrics.serving.of(key)
        self.intake: AcceptedMetrics = metrics.intake.of(key)
        self.trainer: BacklogMetrics = metrics.trainer.of(key)
        self.learner: LearnerProgress = metrics.learner.of(key)
        self.publishing: VersionMetrics = metrics.publishing.of(key)

    def counted(self) -> Counted:
        """Return the model's counts since this server started."""
        return Counted(
            ticks=int(value_of(self.serving.ticks)),
            learned=int(value_of(self.learner.totals["learned"])),
            backlog=int(value_of(self.trainer.backlog)),
            learn_every=max(1, int(value_of(self.trainer.learn_every))),
            streams_open=int(value_of(self.serving.open_streams)),
            published=int(value_of(self._verdicts.labels(*self.key, "publish"))),
            vetoed=int(value_of(self._verdicts.labels(*self.key, "veto"))),
            rolled_back=int(value_of(self.publishing.rollbacks)),
            published_time=value_of(self.serving.published),
            staleness=self.serving.staleness.counts,
            unjudged_seconds=next(iter(self.publishing.unjudged._child_samples())).value,
        )


class Metrics:
    """Every group on one registry. Only the composition root sees them together; tests pass their own registry."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        origins: Sequence[str] = (),
        quarantined: Sequence[str] = (),
        cluster: bool = False,
        process: Metrics | None = None,
    ) -> None:
        """origins, quarantined: label values that their owners know, so that those counters exist before they move.
        cluster: whether this is a node of one, so that `cluster` is a group. process: metrics of the process, whose
        groups `process` and `access` a shard shares; None: it has its own.

        Prometheus sees no increase in a counter that appears with its first count.
        """
        declare = Declare(registry)
        self.registry, self.forget = registry, declare.forget
        self.process: ProcessMetrics = process.process if process else ProcessMetrics(declare)
        self.storage = StorageMetrics(declare)
        self.access: AccessMetrics = process.access if process else AccessMetrics(declare)
        self.serving = ServingMetrics(declare, origins)
        self.journal = JournalMetrics(declare)
        self.intake = IntakeMetrics(declare)
        self.learner = LearnerMetrics(declare, quarantined)
        self.trainer = TrainerMetrics(declare)
        self.publishing = PublishingMetrics(declare)
        self.cluster = ClusterMetrics(declare) if cluster else None
        self.of = declare.by_model(lambda key: ModelMetrics(self, key))


def value_of(metric: Counter | Gauge) -> float:
    """Return a child's value. The library's only public way, `collect`, takes a hundred times as long."""
    return float(metric._value.get())


def found(metric: Counter | Gauge, *labels: str) -> float | None:
    """Return the value of the series with these label values; None where there is none yet. Makes none."""
    child: Counter | Gauge | None = metric._metrics.get(labels)  # type: ignore[assignment]  # of its own type
    return None if child is None else value_of(child)
