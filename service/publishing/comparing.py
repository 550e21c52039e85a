"""Compare each shadow with its source: the losses of both on the labels that both have learned.

A tick of the source and the same tick of its shadow are in the same commit. So the two chunks of a commit belong
together, and their losses count once both are reported with equally many labels: where one is thinned or paused, none
counts.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple

from service.journal.writer import Commit, Journal
from service.observe.progress import Compared, LearnerMetrics
from service.serving.catalog import Catalog
from service.trainer.reports import Progress

RECENT_LABELS = 4096  # that a comparison is about
BLOCK_LABELS = 64  # kept as one sum, so that a mean costs little
MAX_WAITING = 4096  # commits of one shadow whose reports are still to come; beyond, the oldest do not count


class Sums(NamedTuple):
    """Label vectors of one chunk, and the sums of their losses."""

    labels: int
    loss: float
    persistence: float

    @classmethod
    def of(cls, report: Progress) -> Sums:
        """Return those of a report."""
        totals = [
            sum(n * value for n, value in zip(report.labels, values, strict=True))
            for values in (report.losses, report.persistence)
        ]
        return cls(sum(report.labels), *totals)

    def plus(self, other: Sums) -> Sums:
        """Return the sums of both."""
        return Sums(self.labels + other.labels, self.loss + other.loss, self.persistence + other.persistence)


class Pairs:
    """The commits of one shadow and its source, by the end of either's chunk."""

    def __init__(self) -> None:
        self._ends: OrderedDict[int, int] = OrderedDict()  # of pairs without both reports: the shadow's → the source's
        self._shadows: dict[int, int] = {}  # the same, the source's → the shadow's
        self._mine: dict[int, Sums] = {}  # reports of the shadow that wait for the source's, by the shadow's end
        self._theirs: dict[int, Sums] = {}  # and the other way round, by the source's end
        self._recent: deque[tuple[Sums, Sums]] = deque()  # blocks of labels

    def committed(self, mine: int, theirs: int) -> None:
        """Note the ends of the two chunks of a commit."""
        self._ends[mine], self._shadows[theirs] = theirs, mine
        if len(self._ends) > MAX_WAITING:
            self._forget(next(iter(self._ends)))

    def reported(self, end: int, sums: Sums, mine: bool) -> bool:
        """Note a report; return whether it completes a pair that counts."""
        own = end if mine else self._shadows.get(end, 0)
        if own not in self._ends:
            return False
        (self._mine if mine else self._theirs)[end] = sums
        pair = self._mine.get(own), self._theirs.get(self._ends[own])
        if pair[0] is None or pair[1] is None:
            return False
        self._forget(own)
        if not pair[0].labels or pair[0].labels != pair[1].labels:
            return False
        self._add(pair[0], pair[1])
        return True

    def _add(self, mine: Sums, theirs: Sums) -> None:
        """Add a pair to the newest block, or begin another."""
        if self._recent and self._recent[-1][0].labels < BLOCK_LABELS:
            block = self._recent.pop()
            mine, theirs = block[0].plus(mine), block[1].plus(theirs)
        self._recent.append((mine, theirs))

    def _forget(self, mine: int) -> None:
        theirs = self._ends.pop(mine)
        self._shadows.pop(theirs, None)
        self._mine.pop(mine, None)
        self._theirs.pop(theirs, None)

    def compared(self) -> Compared:
        """Return the means over the last RECENT_LABELS, and forget what is older."""
        labels = sum(mine.labels for mine, _ in self._recent)
        while labels - self._recent[0][0].labels >= RECENT_LABELS:
            labels -= self._recent.popleft()[0].labels
        means = (
            sum(getattr(pair[side], name) for pair in self._recent) / labels
            for side in (0, 1)
            for name in ("loss", "persistence")
        )
        return Compared(labels, *means)


class Comparing:
    """Pairs the reports of shadows and sources. For the event loop."""

    def __init__(self, catalog: Catalog, journal: Journal, metrics: LearnerMetrics) -> None:
        self._catalog, self._metrics = catalog, metrics
        self._pairs: dict[int, Pairs] = {}  # by shadow
        journal.on_commit.append(self._committed)
        catalog.on_removed.append(self._removed)

    def _committed(self, commit: Commit) -> None:
        ends = {chunk.model: chunk.end_offset for chunk in commit.chunks}
        for number, end in ends.items():
            model = self._catalog.models.get(number)
            if model is not None and model.spec.shadow:
                source = self._catalog.source_of(model)
                if source.number in ends:
                    self._pairs.setdefault(number, Pairs()).committed(end, ends[source.number])

    def reported(self, report: Progress) -> None:
        """Note what a model has learned of a chunk."""
        model = self._catalog.models.get(report.model)
        if model is None:
            return
        sums, end = Sums.of(report), report.totals.offset
        for shadow in [model, *model.shadows]:
            pairs = self._pairs.get(shadow.number)
            if pairs is not None and pairs.reported(end, sums, mine=shadow is model):
                self._metrics.of(shadow.key).compared = pairs.compared()

    def _removed(self, model: int) -> None:
        self._pairs.pop(model, None)
