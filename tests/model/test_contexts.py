"""The learner's context of each stream: least recently used is evicted first; a restored arena continues bit-equal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.fold.contexts import Contexts
from model.fold.learner import Learner
from model.network import Network
from model.update.bptt import pad_rows
from model.update.rounds import GROUP_ROWS
from tests.conftest import examples
from tests.model.worlds import Checkpoint, chunks, digest, feed, spec


def arena(limit: int = GROUP_ROWS) -> Contexts:
    return Contexts(Network(spec(hidden=2)), limit)


def touch(contexts: Contexts, streams: list[int], value: float) -> None:
    slots, block = contexts.load(streams)
    block.start[...] = value
    contexts.store(slots, block)


def test_a_new_stream_starts_empty_even_in_a_used_slot() -> None:
    contexts = arena()
    touch(contexts, [1, 2], 5.0)
    contexts.remove(1)
    _, block = contexts.load([3])
    assert not block.rows.any()
    assert (block.fill[0], block.known[0], np.isnan(block.last_time[0])) == (0, 0, True)


def test_blocks_are_copies_until_stored() -> None:
    contexts = arena()
    slots, block = contexts.load([7, 8])
    block.start[...] = 1.0
    assert not contexts.load([7])[1].start.any()
    contexts.store(slots, block)
    assert contexts.load([8, 7])[1].start.all()


@examples(50)
@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=32, unique=True), max_size=12), st.integers(32, 36))
def test_the_least_recently_used_stream_is_evicted_in_journal_order(groups: list[list[int]], limit: int) -> None:
    contexts, order, evicted = arena(limit), list[int](), 0
    for group in groups:
        touch(contexts, group, 1.0)
        for stream in group:
            if stream in order:
                order.remove(stream)
            elif len(order) == limit:
                order.pop(0)
                evicted += 1
            order.append(stream)
    assert (contexts.order(), contexts.evicted, len(contexts)) == (order, evicted, len(order))


def test_removing_returns_the_number_of_waiting_origins() -> None:
    contexts = arena()
    slots, block = contexts.load([1])
    block.known[...] = 3
    contexts.store(slots, block)
    assert [contexts.remove(1), contexts.remove(1), contexts.remove(99)] == [3, 0, 0]


def test_changes_are_the_contexts_touched_since_the_last_call() -> None:
    contexts, full = arena(), list(range(1, GROUP_ROWS + 1))
    touch(contexts, full, 1.0)
    assert set(contexts.changes()[0]) == set(full)
    touch(contexts, [2, 3], 2.0)
    touch(contexts, [99], 3.0)  # evicts 1
    changed, removed = contexts.changes()
    assert (set(changed), removed) == ({2, 3, 99}, {1})
    assert contexts.changes() == ({}, set())


def test_a_stream_removed_and_added_again_is_reported_as_changed_only() -> None:
    contexts = arena()
    touch(contexts, [1], 1.0)
    contexts.changes()
    contexts.remove(1)
    touch(contexts, [1], 2.0)
    changed, removed = contexts.changes()
    assert (set(changed), removed) == ({1}, set())  # otherwise the order of applying the two would matter


@examples(30)
@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=32, unique=True), min_size=1, max_size=8))
def test_an_arena_restored_from_its_changes_holds_the_same_bytes_in_the_same_order(groups: list[list[int]]) -> None:
    contexts, stored = arena(), dict[int, bytes]()
    for value, group in enumerate(groups):
        touch(contexts, group, value + 1.0)
        changed, removed = contexts.changes()
        stored = {s: b for s, b in stored.items() if s not in removed} | changed

    restored = arena()
    restored.restore(stored, contexts.order())

    assert set(stored) == set(contexts.order())
    assert restored.changes() == ({}, set())
    order = contexts.order()
    assert restored.order() == order
    np.testing.assert_array_equal(restored.load(order)[1].rows, contexts.load(order)[1].rows)
    np.testing.assert_array_equal(restored.load(order)[1].marks, contexts.load(order)[1].marks)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("limit", [GROUP_ROWS, 100])
def test_a_learner_restored_half_way_continues_bit_equal(cell: str, limit: int) -> None:
    model = spec(cell=cell, horizon=3, learn_every=2, layers=2, head_init=0.1)
    stream = chunks([20] * 40, entities=40, once=True)
    learner, checkpoint = Learner(model, limit), Checkpoint()
    for k, chunk in enumerate(stream[:25]):
        feed(learner, chunk)
        if k % 7 == 0:
            checkpoint.save(learner)
    checkpoint.save(learner)

    restored = checkpoint.load(model, limit)
    assert digest(restored) == digest(learner)
    for chunk in stream[25:]:
        assert [u.loss for u in feed(learner, chunk)] == [u.loss for u in feed(restored, chunk)]
    assert digest(restored) == digest(learner)
    assert learner.counts.updates > 10
    assert (learner.contexts.evicted > 10) == (limit == GROUP_ROWS)


def test_a_context_of_another_length_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"context of stream 4 has 3 bytes, expected \d+"):
        arena().restore({4: b"abc"}, [4])


def test_an_arena_smaller_than_a_group_is_refused() -> None:
    """A stream evicted while its group is processed would share its slot with another row."""
    with pytest.raises(ValueError, match=f"limit = {GROUP_ROWS - 1}; give at least {GROUP_ROWS}"):
        arena(GROUP_ROWS - 1)


def test_an_arena_never_grows_beyond_its_limit() -> None:
    contexts = arena(35)
    for first in range(0, 90, 30):
        touch(contexts, list(range(first, first + 30)), 1.0)
    assert len(contexts._rows) == 35


def test_pad_rows_appends_zeros_and_returns_a_full_array_unchanged() -> None:
    array = np.ones((2, 3), np.float32)
    assert pad_rows(2, array, 0) is array
    np.testing.assert_array_equal(pad_rows(4, array, 1), [[1, 1, 1, 0]] * 2)
