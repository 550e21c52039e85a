"""Groups of ticks that are stepped and learned together (DESIGN R4)."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.update.rounds import GROUP_ROWS, rounds

some_streams = st.lists(st.one_of(st.integers(0, 4), st.integers(0, 2**32 - 1)), max_size=120)
each_once_in_order = st.sets(st.integers(0, 2**32 - 1), max_size=120).map(sorted)  # as a gateway sends them
streams_and_limit = given(st.one_of(some_streams, each_once_in_order), st.sampled_from([1, 3, 32]))


@streams_and_limit
def test_every_tick_is_in_exactly_one_group(streams: list[int], limit: int) -> None:
    groups = rounds(np.array(streams, np.uint32), limit)
    assert sorted(i for group in groups for i in group) == list(range(len(streams)))


@streams_and_limit
def test_a_group_has_each_stream_at_most_once_and_at_most_limit_rows(streams: list[int], limit: int) -> None:
    for group in rounds(np.array(streams, np.uint32), limit):
        assert 1 <= len(group) <= limit
        assert len({streams[i] for i in group}) == len(group)


@streams_and_limit
def test_the_ticks_of_a_stream_keep_their_order(streams: list[int], limit: int) -> None:
    flat = [int(i) for group in rounds(np.array(streams, np.uint32), limit) for i in group]
    for stream in set(streams):
        own = [i for i in flat if streams[i] == stream]
        assert own == sorted(own)


@streams_and_limit
def test_groups_are_the_rounds_in_record_order_cut_at_the_limit(streams: list[int], limit: int) -> None:
    by_round: dict[int, list[int]] = {}
    for i, stream in enumerate(streams):
        by_round.setdefault(streams[:i].count(stream), []).append(i)
    expected = [
        by_round[r][start : start + limit] for r in sorted(by_round) for start in range(0, len(by_round[r]), limit)
    ]
    assert [group.tolist() for group in rounds(np.array(streams, np.uint32), limit)] == expected


def test_the_default_limit_of_a_group_is_32_rows() -> None:
    assert [len(group) for group in rounds(np.arange(100, dtype=np.uint32))] == [GROUP_ROWS] * 3 + [4]
