"""Shares of learning: a loud stream gets at most its share of the labels; a single stream gets all."""

from __future__ import annotations

import numpy as np
import pytest

from model.fold import shares
from model.fold.learner import Learner
from model.fold.shares import Shares
from tests.model import worlds
from tests.model.test_labels import label, spec, tick

WINDOW = 40
LOUD, QUIET = 1, 2


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "WINDOW", WINDOW)


def learned(streams: list[int], max_share: float) -> Learner:
    """Return a learner after single ticks of these streams."""
    learner, seq = Learner(worlds.spec(hidden=3, interval=0, max_share=max_share)), dict.fromkeys(streams, 0)
    x = np.random.default_rng(1).normal(0, 1, (len(streams), 1, 2)).astype(np.float32)
    for stream, row in zip(streams, x, strict=True):
        seq[stream] += 1
        learner.ticks(np.full(1, stream, np.uint32), np.full(1, seq[stream], np.uint64), np.full(1, np.nan), row)
    return learner


def loud_one_is_held_back() -> bool:
    """Return whether a stream with nine ticks of ten and a share of half gets about half of all labels, and the other
    one all of its own."""
    learner = learned(([LOUD] * 9 + [QUIET]) * 40, 0.5)
    counts = learner.counts
    quiet = 40 - 1  # its first tick gives no label
    return counts.thinned > 0 and counts.learned - quiet <= 0.5 * (400 + WINDOW) and counts.learned >= quiet + 150


def test_a_loud_stream_gets_its_share_of_a_window_and_a_quiet_one_all_its_labels(monkeypatch):
    assert loud_one_is_held_back()

    monkeypatch.setattr(Shares, "admit", lambda self, streams, share: np.ones(len(streams), bool))
    assert not loud_one_is_held_back()


def test_admitted_labels_never_exceed_the_share_of_a_window():
    rng, kept = np.random.default_rng(3), Shares()
    streams = rng.choice([LOUD, QUIET, 3], 600, p=[0.8, 0.15, 0.05])

    admitted = kept.admit(streams.tolist(), 0.6)

    for end in range(WINDOW, 600):
        window = slice(end - WINDOW, end)
        assert (admitted[window] & (streams[window] == LOUD)).sum() <= 0.6 * WINDOW
    assert admitted[streams != LOUD].all()


def test_all_labels_of_a_single_stream_are_learned():
    assert learned([LOUD] * 100, 0.5).counts.thinned == 0


def test_a_stream_counts_as_single_after_a_window_without_the_others():
    kept = Shares()
    kept.admit([QUIET], 0.5)

    admitted = kept.admit([LOUD] * 3 * WINDOW, 0.5)

    assert not admitted[:WINDOW].all()
    assert admitted[WINDOW:].all()


def test_a_share_of_one_does_not_limit():
    assert learned(([LOUD] * 9 + [QUIET]) * 20, 1.0).counts.thinned == 0


def test_external_labels_have_shares():
    learner = Learner(spec(max_share=0.25))
    tick(learner, LOUD, range(1, 31))
    tick(learner, QUIET, range(1, 31))

    label(learner, (QUIET, 30, 0.0), *((LOUD, seq, 1.0) for seq in range(1, 31)))

    assert (learner.counts.learned, learner.counts.thinned) == (1 + WINDOW // 4, 30 - WINDOW // 4)


def test_packed_and_unpacked_shares_continue_unchanged():
    streams = np.random.default_rng(3).choice([LOUD, QUIET], 300, p=[0.9, 0.1]).tolist()
    straight, broken = Shares(), Shares()
    for n, stream in enumerate(streams):
        if n % 50 == 7:
            broken = Shares.unpack(broken.pack())
        assert straight.admit([stream], 0.5) == broken.admit([stream], 0.5)
