"""What a journal commit means for the streams: their ticks are on disk."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.journal.writer import Commit, Journal
from service.observe.server_metrics import JournalMetrics
from service.serving.catalog import Catalog
from service.streams.served import ServedModel
from service.streams.table import ABSENT

FEW = 16  # ticks of a commit: up to this many, a loop is faster than columns


class Progress:
    """Marks ticks as durable and wakes their owners at each journal commit; reports the commit to the metrics."""

    def __init__(self, catalog: Catalog, journal: Journal, metrics: JournalMetrics) -> None:
        self._catalog, self._journal, self._metrics = catalog, journal, metrics
        journal.on_commit.append(self._committed)

    def _committed(self, commit: Commit) -> None:
        for chunk in commit.chunks:
            model = self._catalog.models.get(chunk.model)
            if model is not None and len(chunk.seqs):
                mark_durable(model, chunk.streams, chunk.seqs)
        self._metrics.commit_seconds.observe(commit.seconds)
        self._metrics.durable_seconds.observe(commit.lag)
        self._metrics.journal_bytes.set(commit.position)
        self._metrics.journal_size.set(self._journal.size)
        self._metrics.durable_lag.set(self._journal.pending_entries)


def mark_durable(model: ServedModel, streams: NDArray[np.uint32], seqs: NDArray[np.uint64]) -> None:
    """Mark ticks as on disk, one per entry, and wake the owners. Streams that are not in memory are skipped."""
    table = model.table
    if len(streams) <= FEW:
        owners: dict[int, None] = {}
        for number, seq in zip(streams.tolist(), seqs.tolist(), strict=True):
            if (row := table.row_of(number)) != ABSENT:
                table.durable_seq[row] = seq
                owners[table.owner.item(row)] = None
        model.owners.wake_each(owners)
        return
    rows = table.rows_of(streams)
    if (rows == ABSENT).any():
        seqs, rows = seqs[rows != ABSENT], rows[rows != ABSENT]
    table.durable_seq[rows] = seqs  # if a stream repeats, its last value wins
    model.owners.wake(rows)
