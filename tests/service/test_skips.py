"""What is left out of learning by record: the ranges, when it comes to that, and the fold that passes over them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.spec import ModelSpec
from service.journal.records import Label, Ticks, Window
from service.journal.skips import Skips
from service.learning.deaths import DEATHS, Deaths
from service.trainer.hosting import HostedModel
from tests.service.histories import GATE, MODEL, chunks, create, digest, swap, weights_of
from tests.service.test_hosting import through_a_file

SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8)
SPEC = ModelSpec.from_mapping(
    {"channels": ["x"], "task": "regress", "targets": ["q"], "hidden": 4, "window": 9, "label_horizon": 50}
)


@given(SPANS)
def test_skips_hold_what_a_set_would_and_their_ranges_are_apart(spans):
    skips = Skips(spans)
    plain = {offset for first, end in spans for offset in range(first, end)}

    assert {offset for offset in range(50) if offset in skips} == plain
    ranges = Skips(skips.pack()).pack()
    assert ranges == skips.pack()
    assert all(end < first for (_, end), (first, _) in pairwise(ranges))


def test_only_deaths_at_one_place_that_is_never_learned_lead_to_a_skip():
    """Two models may each have such a place: the deaths at the one are not fewer for those at the other."""
    deaths = Deaths()

    assert [deaths.died(position) for position in (7, 7, 9)] == [False] * 3
    deaths.learned(7)
    assert [deaths.died(position) for position in (7, 9, 7)] == [False] * 3
    assert DEATHS == 3
    assert deaths.died(9)
    assert deaths.died(7)


def test_what_is_skipped_is_not_learned_and_labels_and_windows_of_it_are_quarantined():
    hosted = fold(skipped=(30, 44))

    assert hosted.offset == 62
    assert hosted.learner.counts.ticks == 20 + 16
    items, _ = hosted.quarantine.changes()
    assert [(item.reason, item.offset, item.seq) for item in items if item.reason == "skipped"] == [
        ("skipped", 40, 25), ("skipped", 41, 26), ("skipped", 42, 1),
    ]  # fmt: skip


def test_a_fold_with_a_skip_that_restarts_anywhere_ends_with_the_same_bits(tmp_path):
    expected = digest(fold(skipped=(30, 44)))
    whole = records()

    assert expected != digest(fold(skipped=(0, 0)))
    for at in range(1, len(whole)):
        first = fold(skipped=(30, 44), until=at)
        loaded = through_a_file(tmp_path / f"{at}.db", first)
        assert digest(fold(skipped=(30, 44), since=at, hosted=loaded)) == expected


def records():
    """Chunks: [0] creation and version, [1] 20 ticks, [2] labels, [3] 10 ticks, labels, a window, [4] ticks, labels."""
    rng = np.random.default_rng(0)

    def ticks(first: int, n: int) -> Ticks:
        stream, seq = np.full(n, 3, np.uint32), np.arange(first, first + n, dtype=np.uint64)
        return Ticks(stream, seq, np.full(n, np.nan), rng.normal(size=(n, 1)).astype(np.float32))

    def label(seq: int) -> Label:
        return Label(3, seq, rng.normal(size=1).astype(np.float32))

    def window(number: int) -> Window:
        x = rng.normal(size=(4, 1)).astype(np.float32)
        return Window("laboratory", number, x, x * 2, np.ones_like(x), None)

    return chunks(
        [create(SPEC), swap(1)],
        [ticks(1, 20)],
        [label(n) for n in range(5, 13)],
        [ticks(21, 10), label(25), label(26), window(1), window(1)],
        [ticks(31, 16), label(44), window(2)],
    )


def fold(skipped: tuple[int, int], since: int = 0, until: int = 99, hosted: HostedModel | None = None) -> HostedModel:
    for chunk in records()[since:until]:
        hosted = hosted or HostedModel.create(MODEL, chunk.records[0], GATE)
        hosted.skips = Skips([skipped])
        hosted.apply(chunk, weights_of)
    assert hosted is not None
    return hosted
