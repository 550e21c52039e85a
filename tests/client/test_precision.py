"""Which changes float32 loses: never without a word, and never by mistake."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import freshet
from freshet import offsets
from freshet.precision import Line, Watch, check_ahead, first_lost, short_offset

ALTERNATING = (-1.0) ** np.arange(400)
RNG = np.random.default_rng(7)

LOST: dict[str, tuple[Any, Any]] = {
    "a counter from 1e8": (1e8 + np.arange(300.0), 1e8),
    "a level of 1e9": (1e9 + 0.1 * ALTERNATING, 1e9),
    "a level below zero": (-1e9 + 0.1 * ALTERNATING, -1e9),
    "a counter with gaps": (np.where(np.arange(300) % 3, 1e8 + np.arange(300.0), np.nan), 1e8),
    "a counter that often stands": (1e8 + np.arange(300.0) // 5, 1e8),
    "a level that jumps from 0": (np.concatenate([np.zeros(50), 1e9 + 0.1 * ALTERNATING]), 1e9),
}
KEPT: dict[str, Any] = {
    "constants": np.full(300, 1e9),
    "noise of float64": 0.1 + 0.2 + 2.0**-54 * RNG.integers(0, 3, 300),
    "noise of float64 on a level": np.cumsum(np.full(300, 0.1)) - np.arange(1, 301) * 0.1 + 1e8,
    "one jump": np.concatenate([np.zeros(50), np.full(50, 1e9)]),
    "jumps": 1e9 * (np.arange(300) % 2),
    "float32 already": (1e8 + np.arange(300.0)).astype(np.float32).astype(np.float64),
    "a walk": RNG.normal(size=3000).cumsum(),
    "hundredths": 20_000 + 0.05 * RNG.normal(size=3000),
    "a sine": np.sin(np.arange(3000) / 48),
    "a curve that flattens": 1 + np.exp(-np.arange(3000) / 10),
    "a slow curve that flattens": 1 / (1 + np.exp(-(np.arange(5000) - 2000) / 50)),
    "whole numbers that float32 has": 1e7 + np.arange(300.0),
    "seven lost": np.concatenate([1e8 + np.arange(8.0), 1e8 + 1000.0 * np.arange(1, 100)]),
    "nothing": np.full(300, np.nan),
    "one value": np.array([1e9]),
    "no value": np.zeros(0),
}


def refused(values: Any, offset: float | None = None) -> list[int]:
    """Rows that are refused one at a time, checked against both implementations of the rule."""
    line, watch, rows = Line(["x"]), Watch(["x"]), []
    for row, value in enumerate(values.tolist()):
        by = watch.see(slice(None), np.array([[value]]), 0.0 if offset is None else offset)
        if by:
            with pytest.raises(freshet.InvalidArgument) as caught:
                line.see([value], None if offset is None else [offset])
            assert str(caught.value) == str(by[0])
            rows.append(row)
        else:
            line.see([value], None if offset is None else [offset])
    return rows


@pytest.mark.parametrize("case", LOST)
def test_a_series_that_float32_would_flatten_is_refused_after_eight_lost_changes(case):
    values, offset = LOST[case]
    rows = refused(values)
    assert rows
    with pytest.raises(freshet.InvalidArgument, match=r"x.* = .* to .*float32.*offset=\{'x': -?1") as caught:
        check_ahead(values[:, None], ["x"])
    assert caught.value.field.startswith(f"x[{rows[0]}")
    assert caught.value.remedy in str(caught.value)
    assert str(offset)[:3] in caught.value.remedy
    if not case.endswith("from 0"):
        assert refused(values, offset) == []
        assert first_lost(values, offset) is None


def test_eight_of_thirty_two_changes_are_too_many_and_seven_are_not():
    def steps(every: int) -> Any:
        return 2.0**30 + np.cumsum(np.where(np.arange(400) % every, 1024.0, 40.0))

    assert first_lost(steps(4)) is not None
    assert refused(steps(4))
    assert first_lost(steps(5)) is None
    assert refused(steps(5)) == []


@pytest.mark.parametrize("case", KEPT)
def test_what_float32_keeps_and_what_is_noise_is_taken(case):
    assert refused(KEPT[case]) == []
    assert first_lost(KEPT[case]) is None


def test_a_refused_tick_leaves_its_stream_as_it_was_and_the_others_go_on():
    watch = Watch(["x"], 2)
    for n in range(8):
        assert not watch.see(np.array([0, 1]), np.array([[1e8 + n], [1.0 * n]]))
    for n in range(8, 11):
        assert list(watch.see(np.array([0, 1]), np.array([[1e8 + n], [1.0 * n]]))) == [0]
    assert not watch.see(np.array([0]), np.array([[1e8 + 1000]]))
    watch.forget(0)
    watch.grow(5)
    assert not watch.see(np.array([0, 4]), np.array([[1e8 + 1001], [1e8]]))


@given(
    st.lists(st.floats(-1e10, 1e10) | st.just(float("nan")) | st.integers(10**8, 10**8 + 99).map(float), max_size=60),
    st.sampled_from([None, 1e8, -3.5]),
)
def test_one_stream_and_many_are_judged_alike(values, offset):
    refused(np.array(values, np.float64), offset)


@pytest.mark.parametrize(
    ("value", "change", "short"),
    [(100_000_255.0, 1.0, 1e8), (1_234_567_891.1, 0.1, 1_234_570_000.0), (-1e9 + 3, 0.1, -1e9), (5.0, 0.0, 5.0)],
)
def test_a_suggested_offset_is_short_and_keeps_the_changes(value, change, short):
    offset = short_offset(value, change)
    assert offset == short
    if change:
        kept = float(np.float32(value + change - offset)) - float(np.float32(value - offset))
        assert abs(kept - change) < 0.1 * change


@pytest.mark.parametrize("wrong", ["1e8", True, [1.0, "a"], {"a": None}, float("nan"), [float("inf"), 0], {1.0}, 1e16])
def test_an_offset_that_is_none_is_refused_by_name(wrong):
    with pytest.raises(freshet.InvalidArgument) as caught:
        offsets.checked(wrong)
    assert caught.value.field.startswith("offset")


@pytest.mark.parametrize(
    ("given", "made"),
    [
        (None, None), (0, None), ({}, None), (1e8, [1e8, 1e8]), (np.float32(2), [2, 2]), ([1, 2], [1, 2]),
        (np.array([1.0, 2.0]), [1, 2]), ((0, 5), [0, 5]), ({"b": 7}, [0, 7]),
    ],
)  # fmt: skip
def test_an_offset_is_one_number_one_per_channel_or_by_name(given, made):
    offset = offsets.of_channels(offsets.checked(given), ["a", "b"])
    assert (offset if offset is None else offset.tolist()) == made


@pytest.mark.parametrize("wrong", [[1.0], [1.0, 2.0, 3.0], {"c": 1.0}])
def test_an_offset_of_other_channels_is_refused(wrong):
    with pytest.raises(freshet.InvalidArgument, match="a, b"):
        offsets.of_channels(offsets.checked(wrong), ["a", "b"])
