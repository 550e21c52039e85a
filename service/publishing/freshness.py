"""How long labels wait: from the disk to the version that was judged with them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from service.journal.writer import Commit, Journal
from service.observe.learning_metrics import PublishingMetrics
from service.serving.catalog import Catalog
from service.streams.served import ServedModel

MAX_MARKS = 100_000  # commits of one model that wait for a verdict; beyond, the oldest are forgotten


class Freshness:
    """Times the labels of each model from their commit to their verdict. For the event loop, but `waiting`."""

    def __init__(
        self, catalog: Catalog, journal: Journal, metrics: PublishingMetrics, clock: Callable[[], float]
    ) -> None:
        """clock: monotonic seconds."""
        self._catalog, self._metrics, self._clock = catalog, metrics, clock
        self._on_disk: dict[int, deque[tuple[int, float]]] = {}  # by model: commits not judged, (offset, clock seconds)
        journal.on_commit.append(self._committed)
        catalog.on_removed.append(self._removed)

    def waiting(self, model: int) -> float:
        """Return for how many seconds the oldest label that is on disk and not judged has waited; 0 without one."""
        with suppress(LookupError):  # nothing waits; asked from another thread, perhaps since a moment ago
            return max(0.0, self._clock() - self._on_disk[model][0][1])
        return 0.0

    def judged(self, model: ServedModel, offset: int, in_service: bool) -> None:
        """End the wait of labels up to `offset`. in_service: the version that learned them serves now."""
        marks, now = self._on_disk.get(model.number, deque()), self._clock()
        freshness = self._metrics.of(model.key).freshness
        while marks and marks[0][0] <= offset:
            _, on_disk = marks.popleft()
            if in_service:
                freshness.observe(now - on_disk)

    def _committed(self, commit: Commit) -> None:
        now = self._clock()
        for chunk in commit.chunks:
            model = self._catalog.models.get(chunk.model)
            if model and (chunk.labels or (len(chunk.seqs) and model.spec.task == "forecast")):
                if chunk.model not in self._on_disk:
                    self._on_disk[chunk.model] = deque(maxlen=MAX_MARKS)
                    self._metrics.of(model.key).unjudged.set_function(partial(self.waiting, chunk.model))
                self._on_disk[chunk.model].append((chunk.end_offset, now))

    def _removed(self, model: int) -> None:
        self._on_disk.pop(model, None)
