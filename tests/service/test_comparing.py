"""Losses of a shadow and its source, paired by commit: only labels that both have learned count."""

from __future__ import annotations

import numpy as np
import pytest

from service.publishing import comparing
from service.publishing.comparing import Pairs, Sums


def test_pairs_count_in_any_order_of_the_reports_and_only_with_equally_many_labels():
    pairs = Pairs()
    for n in range(1, 5):
        pairs.committed(10 * n, 7 * n)

    assert not pairs.reported(7, Sums(4, 8.0, 4.0), mine=False)  # the source is ahead
    assert not pairs.reported(14, Sums(2, 2.0, 2.0), mine=False)
    assert pairs.reported(10, Sums(4, 4.0, 4.0), mine=True)
    assert not pairs.reported(20, Sums(1, 1.0, 1.0), mine=True), "the shadow was thinned"
    assert not pairs.reported(10, Sums(4, 4.0, 4.0), mine=True), "a restarted trainer reports again"
    assert not pairs.reported(99, Sums(4, 4.0, 4.0), mine=True), "from before the server's start"
    assert not pairs.reported(30, Sums(0, 0.0, 0.0), mine=True)
    assert not pairs.reported(21, Sums(0, 0.0, 0.0), mine=False), "no labels"

    assert pairs.compared() == (4, 1.0, 1.0, 2.0, 1.0)


def test_the_means_are_of_the_last_labels(monkeypatch):
    monkeypatch.setattr(comparing, "RECENT_LABELS", 1000)
    rng = np.random.default_rng(0)
    pairs, all_mine, all_theirs = Pairs(), [], []
    for n in range(1, 2000):
        labels = int(rng.integers(1, 5))
        mine, theirs = rng.random(2).tolist()
        all_mine += [mine] * labels
        all_theirs += [theirs] * labels
        pairs.committed(n, n)
        pairs.reported(n, Sums(labels, labels * mine, labels * 1.0), mine=True)
        pairs.reported(n, Sums(labels, labels * theirs, labels * 1.0), mine=False)
        found = pairs.compared()

        assert found.labels == len(all_mine) or 1000 <= found.labels <= 1000 + comparing.BLOCK_LABELS + 4
        assert found.loss == pytest.approx(np.mean(all_mine[-found.labels :]))
        assert found.source_loss == pytest.approx(np.mean(all_theirs[-found.labels :]))


def test_commits_that_are_never_reported_are_forgotten(monkeypatch):
    monkeypatch.setattr(comparing, "MAX_WAITING", 10)
    pairs = Pairs()
    for n in range(1, 101):
        pairs.committed(n, n)
        pairs.reported(n, Sums(1, 1.0, 1.0), mine=n % 2 == 0)

    assert max(len(pairs._ends), len(pairs._shadows), len(pairs._mine), len(pairs._theirs)) == 10
