"""What happened between two looks: differences of counters and histograms. Pure, but for `mark`, which reads."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from service.common.errors import Reason
from service.observe.histograms import Series
from service.observe.metrics import Metrics, found, value_of
from service.streams.served import ServedModel
from service.trainer.quarantine import REASONS
from service.viewing.seen import Seen

SAMPLE_S = 1.0
LONGEST_S = 10.0  # a longer time between two looks makes no sample
HISTORY = 120  # samples of a model
# Figures of the whole process, which only those see who may see all tenants.
PROCESS = ("latency_p50", "latency_p99", "step_p50", "queue_p99", "refused", "restarts")

Counts = Mapping[str, float]


class Buckets(NamedTuple):
    """A histogram at one moment."""

    bounds: Sequence[float]
    counts: Sequence[int]  # of each bucket; the last: above every bound

    @classmethod
    def of(cls, series: Series) -> Buckets:
        """Return those of a series."""
        return cls(series.bounds, series.counts)

    def since(self, before: Buckets | None) -> Buckets:
        """Return the counts that were added since an earlier moment; None: all."""
        if before is None:
            return self
        added = [max(0, now - then) for now, then in zip(self.counts, before.counts, strict=True)]
        return Buckets(self.bounds, added)

    def quantile(self, share: float) -> float | None:
        """Return the value that this share of the counted values does not exceed; None where nothing was counted.

        Within a bucket values count as evenly spread, as in Prometheus; above every bound they count as the last.
        """
        rank, low = share * sum(self.counts), 0.0
        if not rank > 0:
            return None
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if rank <= count:
                return low + (bound - low) * rank / count
            rank, low = rank - count, bound
        return float(self.bounds[-1])


class Marks(NamedTuple):
    """Totals at one moment, and what stands then."""

    clock: float  # monotonic seconds
    time: float  # seconds since 1970
    counts: Counts
    buckets: Mapping[str, Buckets]
    stands: Mapping[str, Any]


def mark(seen: Seen, model: ServedModel) -> Marks:
    """Read a model's totals, and the process's. The model must not be deleted: its series would come back."""
    m, own, key = seen.metrics, seen.metrics.of(model.key), model.key
    learner, totals = m.learner, own.learner.totals
    counts = {"ticks": value_of(own.serving.ticks), "learning_s": value_of(own.trainer.learning_seconds)}
    counts |= {name: value_of(totals[name]) for name in ("learned", "updates", "clipped", "drifts")}
    for level in model.spec.intervals:
        name = f"{level:g}"
        counts[f"asked {name}"] = found(learner.asked, *key, name) or 0.0
        counts[f"covered {name}"] = found(learner.covered, *key, name) or 0.0
    counts["quarantined"] = sum(found(learner.quarantined, *key, reason) or 0.0 for reason in REASONS)
    process, buckets = _process(m)
    counted = own.counted()
    stands = {
        "loss": own.learner.loss, "persistence": own.learner.persistence, "score": found(learner.score, *key),
        "anchor_score": found(learner.anchor_score, *key), "backlog": counted.backlog,
        "unjudged_seconds": counted.unjudged_seconds, "report": own.learner.report,
        "levels": [f"{level:g}" for level in model.spec.intervals],
    }  # fmt: skip
    buckets |= {"staleness": Buckets.of(own.serving.staleness), "freshness": Buckets.of(own.publishing.freshness)}
    return Marks(seen.clock(), seen.wall(), counts | process, buckets, stands)


def process_marks(all_seen: Sequence[Seen], clock: float, time: float) -> Marks:
    """Read the totals of all shards of a process."""
    counts: dict[str, float] = {}
    buckets: dict[str, Buckets] = {}
    for seen in all_seen:
        part, its = _process(seen.metrics)
        counts = {name: counts.get(name, 0.0) + value for name, value in part.items()}
        for name, each in its.items():
            before = buckets.get(name, Buckets(each.bounds, [0] * len(each.counts)))
            buckets[name] = Buckets(each.bounds, [a + b for a, b in zip(each.counts, before.counts, strict=True)])
    return Marks(clock, time, counts, buckets, {})


def _process(metrics: Metrics) -> tuple[dict[str, float], dict[str, Buckets]]:
    serving = metrics.serving
    counts = {"refused": sum(refusals(metrics).values()), "restarts": value_of(metrics.trainer.restarts)}
    series = {"latency": serving.total_seconds, "step": serving.compute_seconds, "queue": serving.queue_seconds}
    return counts, {name: Buckets.of(each) for name, each in series.items()}


def refusals(metrics: Metrics) -> dict[str, float]:
    """Return the refused ticks and labels since the start, by reason."""
    totals: dict[str, float] = {}
    for counter in (metrics.serving.refused_ticks, metrics.intake.refused_labels):
        for reason in Reason:
            name = reason.name.lower()
            totals[name] = totals.get(name, 0.0) + (found(counter, name) or 0.0)
    return totals


def sample(before: Marks, after: Marks) -> dict[str, Any]:
    """Return SAMPLE of the time between two marks of a model; None where nothing happened that could be measured."""
    new = {name: value - before.counts.get(name, 0.0) for name, value in after.counts.items()}
    seconds, stands = after.clock - before.clock, after.stands
    report = stands["report"] if stands["report"] is not before.stands["report"] else None
    learned = new["updates"] > 0
    out: dict[str, Any] = {"time": after.time, "seconds": seconds}
    out |= {name: stands[name] if learned else None for name in ("loss", "persistence", "score", "anchor_score")}
    out |= {
        "ticks_per_s": new["ticks"] / seconds, "learned_per_s": new["learned"] / seconds,
        "updates_per_s": new["updates"] / seconds,
        "norm": report.norms[-1] if report and report.norms else None,
        "ratio": report.ratios[-1] if report and report.ratios else None,
        "clipped": new["clipped"] / new["updates"] if learned else None,
        "learning_share": new["learning_s"] / seconds, "drifts": new["drifts"],
        "backlog": stands["backlog"], "unjudged_seconds": stands["unjudged_seconds"],
        "coverage": {level: _coverage(new, level) for level in stands["levels"]},
        "experts": dict(report.experts) if report else {}, "quarantined": new["quarantined"],
    }  # fmt: skip
    for name in ("staleness", "freshness"):
        added = after.buckets[name].since(before.buckets[name])
        out[f"{name}_p50"] = added.quantile(0.5)
        if name == "staleness":
            out["staleness_p95"] = added.quantile(0.95)
    return out | process_sample(before, after)


def process_sample(before: Marks | None, after: Marks) -> dict[str, Any]:
    """Return the process's part of SAMPLE between two marks. before: None: since the start."""
    was, had = (before.counts, before.buckets) if before else ({}, {})

    def quantile(name: str, share: float) -> float | None:
        now = after.buckets.get(name)
        return now.since(had.get(name)).quantile(share) if now else None

    return {
        "latency_p50": quantile("latency", 0.5), "latency_p99": quantile("latency", 0.99),
        "step_p50": quantile("step", 0.5), "queue_p99": quantile("queue", 0.99),
        "refused": max(0.0, after.counts.get("refused", 0.0) - was.get("refused", 0.0)),
        "restarts": max(0.0, after.counts.get("restarts", 0.0) - was.get("restarts", 0.0)),
    }  # fmt: skip


class Sampler:
    """The samples of one model: one each SAMPLE_S while it is watched; the last HISTORY are kept. For the loop."""

    def __init__(self, seen: Seen, model: ServedModel) -> None:
        self._seen, self._model = seen, model
        self._mark: Marks | None = None
        self._samples: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self.taken = 0

    def look(self) -> bool:
        """Take a sample if the last mark is SAMPLE_S old; return whether one was taken."""
        now = self._seen.clock()
        if self._mark is not None and now - self._mark.clock < SAMPLE_S:
            return False
        before, self._mark = self._mark, mark(self._seen, self._model)
        if before is None or self._mark.clock - before.clock > LONGEST_S:  # there was no look meanwhile
            return False
        self._samples.append(sample(before, self._mark))
        self.taken += 1
        return True

    def since(self, taken: int) -> list[dict[str, Any]]:
        """Return the samples after the first `taken` ones, as far as they are kept, oldest first."""
        missing = min(self.taken - taken, len(self._samples))
        return list(self._samples)[len(self._samples) - missing :]


def without_process(full: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sample for those who may not see the process's figures: null in their place."""
    return {name: None if name in PROCESS else value for name, value in full.items()}


def _coverage(new: Counts, level: str) -> float | None:
    asked = new[f"asked {level}"]
    return new[f"covered {level}"] / asked * float(level) if asked > 0 and math.isfinite(asked) else None
