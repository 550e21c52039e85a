"""Counts and durations of requests by model, as ModelStatistics and Triton's metrics have them."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Self

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from service.common.errors import Exhausted, ServiceError, Unavailable
from service.common.names import ModelKey
from service.streams.served import ServedModel

LABELS = ("tenant", "model", "version")
SERVING = "serving"  # the label version: a number would begin new series with each version that a model learns
REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")  # of failures, in Triton's words
HELP = {  # of the metrics: name, and which count it is
    "nv_inference_request_success": ("Requests that were answered.", "success"),
    "nv_inference_count": ("Ticks that were answered.", "ticks"),
    "nv_inference_exec_count": ("Ticks that were answered; several may share a step.", "ticks"),
    "nv_inference_request_duration_us": ("Time of requests, from their arrival to their answers.", "success_us"),
    "nv_inference_queue_duration_us": ("Time for which requests waited for their sequence's turn.", "queue_us"),
    "nv_inference_compute_input_duration_us": ("0: part of compute_infer.", "nothing"),
    "nv_inference_compute_infer_duration_us": ("Time of requests from their turn to their answers.", "infer_us"),
    "nv_inference_compute_output_duration_us": ("0: part of compute_infer.", "nothing"),
    "nv_inference_pending_request_count": ("Requests that are being answered.", "pending"),
}


class Counts:
    """Counts of one model since the process started. Durations: of answered requests, seconds."""

    nothing = 0

    def __init__(self, model: ServedModel) -> None:
        self.model = weakref.ref(model)
        self.success = self.ticks = self.pending = self.last_ms = 0
        self.success_s = self.queue_s = self.fail_s = 0.0
        self.failures = dict.fromkeys(REASONS, 0)

    @property
    def infer_s(self) -> float:
        """Time from the turn of requests to their answers."""
        return self.success_s - self.queue_s

    def value(self, name: str) -> float:
        """Return a count, or a duration in microseconds if its name ends in _us."""
        value: float = 1e6 * getattr(self, f"{name[:-3]}_s") if name.endswith("_us") else getattr(self, name)
        return value

    def request(self, arrived: float, clock: Callable[[], float]) -> Counted:
        """Return a block that counts a request whose turn has come. arrived: clock seconds."""
        return Counted(self, arrived, clock)


class Counted:
    """A request being counted, while the block lasts. ticks: that it has answered, to be set.

    A class, because a generator would cost several times as much per request.
    """

    __slots__ = ("_arrived", "_clock", "_counts", "_turn", "ticks")

    def __init__(self, counts: Counts, arrived: float, clock: Callable[[], float]) -> None:
        self._counts, self._arrived, self._clock = counts, arrived, clock
        self._turn, self.ticks = arrived, 0

    def __enter__(self) -> Self:
        self._turn = self._clock()
        self._counts.pending += 1
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        counts, took_s = self._counts, self._clock() - self._arrived
        counts.pending -= 1
        if error is not None:
            counts.failures[reason_of(error)] += 1
            counts.fail_s += took_s
            return
        counts.success += 1
        counts.ticks += self.ticks
        counts.success_s += took_s
        counts.queue_s += self._turn - self._arrived
        counts.last_ms = time.time_ns() // 1_000_000


class Statistics(Collector):
    """Counts of the models that requests have named."""

    def __init__(self) -> None:
        self._counts: dict[ModelKey, Counts] = {}

    def of(self, model: ServedModel) -> Counts:
        """Return the counts of a model, new for one that was created again; forgets those of deleted models."""
        found = self._counts.get(model.key)
        if found is None or found.model() is not model:
            for key in [key for key, counts in self._counts.items() if counts.model() is None]:
                del self._counts[key]
            found = self._counts[model.key] = Counts(model)
        return found

    def collect(self) -> Iterable[Metric]:
        """Return Triton's metrics. Called in the thread of a scrape."""
        every = list(self._counts.items())
        for name, (meaning, count) in HELP.items():
            metric = Metric(
                name, meaning, "gauge" if count == "pending" else "unknown"
            )  # a counter would end in _total
            for (tenant, model), counts in every:
                metric.add_sample(name, _labels(tenant, model), counts.value(count))
            yield metric
        failed = Metric("nv_inference_request_failure", "Requests that were refused, or that failed.", "unknown")
        for (tenant, model), counts in every:
            for reason, n in counts.failures.items():
                failed.add_sample(failed.name, _labels(tenant, model) | {"reason": reason}, n)
        yield failed


def _labels(tenant: str, model: str) -> dict[str, str]:
    return dict(zip(LABELS, (tenant, model, SERVING), strict=True))


def reason_of(error: BaseException) -> str:
    """Return the reason of a failure: REJECTED for what may succeed later, OTHER for what the request got wrong."""
    if isinstance(error, asyncio.CancelledError):
        return "CANCELED"
    if isinstance(error, Exhausted | Unavailable):
        return "REJECTED"
    return "OTHER" if isinstance(error, ServiceError) else "BACKEND"


def shown(model: ServedModel, counts: Counts) -> dict[str, Any]:
    """Return the statistics of a model, as the protocol names them."""

    def duration(count: int, seconds: float) -> dict[str, int]:
        return {"count": count, "ns": int(1e9 * seconds)}

    n = counts.success
    return {
        "name": model.name, "version": str(model.champion), "last_inference": counts.last_ms,
        "inference_count": counts.ticks, "execution_count": counts.ticks,
        "inference_stats": {
            "success": duration(n, counts.success_s),
            "fail": duration(sum(counts.failures.values()), counts.fail_s),
            "queue": duration(n, counts.queue_s),
            "compute_input": duration(n, 0.0),
            "compute_infer": duration(n, counts.infer_s),
            "compute_output": duration(n, 0.0),
        },
    }  # fmt: skip
